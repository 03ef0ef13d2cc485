//! Terms as the kernel's own generator makes them.
//!
//! `jevents.tsv` was written by `cargo xtask pmu-events --jevents --sample`, from what
//! `jevents.py` printed: events of all models, and each combination of terms.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;

use prof_pmu_events::Arch;
use prof_pmu_events::Table;

#[test]
fn terms_are_those_of_the_kernel_s_generator() {
    let mut models = BTreeSet::new();
    let mut events = 0;
    for line in include_str!("jevents.tsv").lines() {
        let fields: Vec<&str> = line.split('\t').collect();
        let [arch, model, pmu, name, compatible, terms] = fields[..] else {
            panic!("{line:?}");
        };
        let arch = Arch::ALL.into_iter().find(|a| a.name() == arch).unwrap();
        // C cannot have punctuation in a name.
        let table = Table::models(arch)
            .unwrap()
            .into_iter()
            .find(|m| m.name.replace(['/', '-'], "_") == model)
            .map(|m| Table::of_model(arch, &m.name))
            .unwrap_or_else(|| Table::of_system(arch))
            .unwrap()
            .unwrap();
        let event = table
            .find(name)
            .find(|e| e.pmu == pmu && e.compatible.unwrap_or_default() == compatible)
            .unwrap_or_else(|| panic!("not found: {line}"));
        assert_eq!(event.terms, terms, "{line}");
        models.insert(model);
        events += 1;
    }
    assert!(events >= 150 && models.len() >= 75, "{events} events of {} models", models.len());
}
