//! Names bytes of a file that lie evenly in its code, and says how long that took:
//! `name FILE [COUNT]`.

use std::fs::File;
use std::os::fd::AsFd as _;
use std::path::Path;
use std::time::Instant;

use prof_symbols::Address;
use prof_symbols::Options;
use prof_symbols::Source;
use prof_symbols::Symbolizer;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let path = arguments.next().ok_or("usage: name FILE [COUNT]")?;
    let count: u64 = arguments.next().map_or(Ok(200), |n| n.parse())?;
    let file = File::open(&path)?;
    let step = (file.metadata()?.len() / count.max(1)).max(1);
    let address = |i| Address { offset: i * step, is_return: false };
    let addresses: Vec<Address> = (0..count).map(address).collect();
    let source =
        Source::File { file: file.as_fd(), path: Path::new(&path), build_id: &[], code: &[] };
    let symbolizer = Symbolizer::new(Options::default());
    for _ in 0..5 {
        let begin = Instant::now();
        let named = symbolizer.user(&source, &addresses);
        let took = begin.elapsed();
        let with_name = named.iter().filter(|n| !n.functions.is_empty()).count();
        let with_line = named.iter().flat_map(|n| n.functions.first()?.line).count();
        println!("{with_name} names, {with_line} with a line, of {count}: {took:?}");
    }
    for (address, named) in addresses.iter().zip(symbolizer.user(&source, &addresses)).step_by(41) {
        let names: Vec<&str> = named.functions.iter().map(|f| f.name.as_str()).collect();
        println!(
            "{:#x} {} {}",
            address.offset,
            names.join(" < "),
            named.unnamed.unwrap_or_default()
        );
    }
    Ok(())
}
