use prof_kernel::*;
use prof_model::figures::*;
use prof_model::rules::*;
fn main() {
    let b = match std::env::args().nth(1).as_deref() {
        Some("tp_btf") => Some(session::Backend::TpBtf),
        Some("raw_tp") => Some(session::Backend::RawTp),
        Some("kprobe") => Some(session::Backend::Kprobe),
        _ => None,
    };
    let t0 = std::time::Instant::now();
    let tables = Tables {
        rules: 1,
        follow: 0,
        uses_eq: {
            let mut u = [0; 12];
            u[8] = 1;
            u
        },
        dims: 1 << 8,
        strings: vec![
            (Dim::Comm, b"true\0".to_vec(), Match { eq: 1, ne: 0 }),
            (Dim::Comm, b"python3".to_vec(), Match { eq: 1, ne: 0 }),
            (Dim::Comm, b"bash".to_vec(), Match { eq: 1, ne: 0 }),
        ],
        ..Default::default()
    };
    let plan = session::Plan {
        backend: b,
        btf: None,
        cache: std::env::var_os("CACHE").map(Into::into),
        tables,
        ring_bytes: 1 << 20,
        max_processes: 65536,
        read_args: true,
        per_thread: false,
        count_execs: false,
    };
    let mut s = match session::Session::open(&plan) {
        Ok(s) => s,
        Err(e) => {
            eprintln!("{e:#}");
            return;
        }
    };
    eprintln!("open {:?} cache {} {:?}", t0.elapsed(), s.from_cache(), s.limits());
    for (n, i) in s.stats() {
        eprintln!("{n} {}", i.verified_insns);
    }
    let secs: u64 = std::env::args().nth(2).map_or(0, |s| s.parse().unwrap());
    let mut c = collect::Collector::new(EventSet::ALL, host::keeps());
    let mut out = vec![];
    let end = std::time::Instant::now() + std::time::Duration::from_secs(secs);
    while std::time::Instant::now() < end {
        std::thread::sleep(std::time::Duration::from_millis(50));
        for r in s.consume().unwrap() {
            c.push(r, &mut out);
        }
    }
    for r in &out {
        if let prof_model::record::Record::Profile(p) = r {
            println!(
                "{} {} exe={:?} args={:?} {:?} {:?} rss={:?} tc={:?} pf={:?} cs={:?} notes={:?}",
                p.process.ident.pid,
                String::from_utf8_lossy(&p.process.ident.comm),
                p.process.exe.as_ref().map(|e| String::from_utf8_lossy(e).into_owned()),
                p.process.args.as_ref().map(|e| e.len()),
                p.window.start,
                p.exit,
                p.figures.get(Event::PeakRss),
                p.figures.get(Event::TaskClock),
                p.figures.get(Event::PageFaults),
                p.figures.get(Event::ContextSwitches),
                p.notes
            );
        }
    }
    println!("{:?}", s.counters());
    let t0 = std::time::Instant::now();
    drop(s);
    eprintln!("drop {:?}", t0.elapsed());
}
