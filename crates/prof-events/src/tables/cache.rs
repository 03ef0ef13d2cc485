//! Cache events: which cache, what was done, with what result.

/// `PERF_COUNT_HW_CACHE_*` by its spellings, the first as `perf list` has it.
const CACHES: [&[&str]; 7] = [
    &["L1-dcache", "l1-d", "l1d", "L1-data"],
    &["L1-icache", "l1-i", "l1i", "L1-instruction"],
    &["LLC", "L2"],
    &["dTLB", "d-tlb", "Data-TLB"],
    &["iTLB", "i-tlb", "Instruction-TLB"],
    &["branch", "branches", "bpu", "btb", "bpc"],
    &["node"],
];

/// `PERF_COUNT_HW_CACHE_OP_*`.
const OPS: [&[&str]; 3] = [
    &["load", "loads", "read"],
    &["store", "stores", "write"],
    &["prefetch", "prefetches", "speculative-read", "speculative-load"],
];

/// `PERF_COUNT_HW_CACHE_RESULT_*`.
const RESULTS: [&[&str]; 2] = [&["refs", "Reference", "ops", "access"], &["misses", "miss"]];

const INSTRUCTIONS: usize = 1;
const INSTRUCTION_TLB: usize = 4;
const BRANCHES: usize = 5;

const READ: usize = 0;
const WRITE: usize = 1;

/// Whether perf has that op for that cache: nobody writes instructions.
fn has_op(cache: usize, op: usize) -> bool {
    match cache {
        INSTRUCTIONS => op != WRITE,
        INSTRUCTION_TLB | BRANCHES => op == READ,
        _ => true,
    }
}

/// The longest spelling that `text` starts with, up to its end or a dash: its row
/// and what comes behind that dash.
fn word<'a>(rows: &[&[&str]], text: &'a str) -> Option<(usize, Option<&'a str>)> {
    let mut best: Option<(usize, usize)> = None;
    for (row, spellings) in rows.iter().enumerate() {
        for s in *spellings {
            let ends = |rest: &str| rest.is_empty() || rest.starts_with('-');
            if text.strip_prefix(s).is_some_and(ends) && best.is_none_or(|(len, _)| s.len() > len) {
                best = Some((s.len(), row));
            }
        }
    }
    best.map(|(len, row)| (row, text[len..].strip_prefix('-')))
}

/// `config` of a cache event in any of perf's spellings: a cache, then up to two
/// of what was done and with what result, in any order. Without them it is read
/// and accessed. `None` if it is none, or the cache has no such operation.
pub fn config(name: &str) -> Option<u64> {
    // That is the generic event.
    if name == "branches" || name.starts_with("branches-") {
        return None;
    }
    let (cache, mut rest) = word(&CACHES, name)?;
    let (mut op, mut result) = (None, None);
    let mut words = 0;
    while let Some(text) = rest {
        words += 1;
        if words > 2 {
            return None;
        }
        if let Some((o, behind)) = word(&OPS, text) {
            // A second one says nothing new to perf.
            if op.is_none() && !has_op(cache, o) {
                return None;
            }
            op.get_or_insert(o);
            rest = behind;
        } else {
            let (r, behind) = word(&RESULTS, text)?;
            result.get_or_insert(r);
            rest = behind;
        }
    }
    let (op, result) = (op.unwrap_or(READ), result.unwrap_or(0));
    Some(cache as u64 | (op as u64) << 8 | (result as u64) << 16)
}

/// Every cache event as `perf list` spells it, with its config and what it is.
pub fn all() -> impl Iterator<Item = (String, u64, String)> {
    let what = ["data cache, level 1", "instruction cache, level 1", "last cache level"];
    let what: [&str; 7] = [
        what[0],
        what[1],
        what[2],
        "TLB for data",
        "TLB for instructions",
        "branch prediction",
        "memory of the node",
    ];
    let pairs = (0..CACHES.len()).flat_map(|c| (0..OPS.len()).map(move |o| (c, o)));
    pairs.filter(|(c, o)| has_op(*c, *o)).flat_map(move |(c, o)| {
        (0..RESULTS.len()).map(move |r| {
            let name = match r {
                0 => format!("{}-{}", CACHES[c][0], OPS[o][1]),
                _ => format!("{}-{}-{}", CACHES[c][0], OPS[o][0], RESULTS[r][0]),
            };
            let verb = ["reads", "writes", "prefetches"][o];
            let missed = if r == 0 { "" } else { " that missed" };
            let config = c as u64 | (o as u64) << 8 | (r as u64) << 16;
            (name, config, format!("{}: {verb}{missed}", what[c]))
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_canonical_spelling_is_read_as_itself() {
        let mut n = 0;
        for (name, config, _) in all() {
            assert_eq!(super::config(&name), Some(config), "{name}");
            n += 1;
        }
        assert_eq!(n, 2 * (4 * 3 + 2 + 1 + 1));
    }

    #[test]
    fn what_no_cache_does_is_no_event() {
        for name in ["L1-icache-stores", "iTLB-prefetches", "branch-stores", "LLC-", "LLC-x"] {
            assert_eq!(config(name), None, "{name}");
        }
        assert_eq!(config("LLC-loads-misses-miss"), None);
        assert_eq!(config("llc-loads"), None);
    }
}
