// What must hold of any bytes at all: for tests and for the fuzzer.

use prof_unwind::Arch;
use prof_unwind::Limits;
use prof_unwind::Needed;
use prof_unwind::RuleSet;
use prof_unwind::Table;
use prof_unwind::unwind;
use prof_unwind::unwind::Code;
use prof_unwind::unwind::Machine;
use prof_unwind::unwind::Regs;

/// Makes a table of it, and checks and uses what comes out. Whether there was one.
pub fn check(data: &[u8]) -> bool {
    let _ = Needed::from_elf(data);
    let limits = Limits {
        file: 1 << 24,
        section: 1 << 22,
        functions: 10_000,
        rows: 100_000,
        instructions: 1_000_000,
    };
    let mut rules = RuleSet::new();
    let Ok(table) = Table::from_elf(data, &mut rules, &limits) else { return false };
    let mut total = 0;
    for index in 0..table.pages() {
        let page = table.page(index);
        total += page.len();
        assert!(page.first().is_none_or(|row| row.pc_low == 0));
        for pair in page.windows(2) {
            assert!(pair[0].pc_low < pair[1].pc_low, "not in order");
            assert!(pair[0].rule != pair[1].rule, "not merged");
        }
        for row in page {
            let rule = rules.get(row.rule).expect("a rule that does not exist");
            let offset = (index as u64) << 16 | u64::from(row.pc_low);
            assert_eq!(table.rule_at(offset), row.rule);
            let memory =
                |at: u64| (at & 0x100 == 0).then(|| at.wrapping_mul(0x9e37_79b9_7f4a_7c15));
            for arch in [Arch::X86_64, Arch::Aarch64] {
                let machine = Machine::new(arch);
                for (sp, fp) in [(0, 0), (u64::MAX, u64::MAX - 7), (1 << 47, (1 << 47) + 64)] {
                    let regs = Regs::new(offset, sp, fp, !offset);
                    unwind::step(&machine, &rules, Code::File(&table, offset), &regs, &memory);
                    unwind::step(&machine, &rules, Code::Anonymous, &regs, &memory);
                    unwind::by_rule(&machine, rule, &regs, &memory);
                }
            }
        }
    }
    assert_eq!(total, table.rows_total());
    assert!(total as u64 <= limits.rows);
    true
}
