//! The vendor's table of this machine's CPUs, for the event syntax.

use std::path::Path;
use std::sync::OnceLock;

use prof_events::VendorEvent;
use prof_events::VendorEvents;
use prof_pmu_events::CpuId;
use prof_pmu_events::Event;
use prof_pmu_events::Table;

/// Looked up, and decoded, when the first event is asked for that nobody else knows.
#[derive(Debug, Default)]
pub struct Vendor {
    table: OnceLock<Option<Table<'static>>>,
}

impl Vendor {
    /// `None` if the CPU has no table. A damaged one is the program's own fault and
    /// is treated as none: the event is then unknown, which says where to look.
    fn table(&self) -> Option<&Table<'static>> {
        let find = || {
            let cpu = CpuId::of_host(Path::new("/sys"), Path::new("/proc")).ok()??;
            Table::for_cpu(&cpu).ok()?
        };
        self.table.get_or_init(find).as_ref()
    }
}

fn convert(table: &Table<'_>, e: &Event<'_>) -> VendorEvent {
    VendorEvent {
        name: e.name.to_owned(),
        pmu: e.pmu.to_owned(),
        terms: e.terms.to_owned(),
        description: table.description(e).ok().flatten().unwrap_or_default().to_owned(),
        unit: e.unit.unwrap_or_default().to_owned(),
        scale: (e.scale != 1.0).then_some(e.scale),
        topic: e.topic.to_owned(),
    }
}

impl VendorEvents for Vendor {
    fn find(&self, name: &str) -> Vec<VendorEvent> {
        let Some(table) = self.table() else { return Vec::new() };
        table.find(name).map(|e| convert(table, &e)).collect()
    }

    fn iter(&self) -> Box<dyn Iterator<Item = VendorEvent> + '_> {
        match self.table() {
            Some(table) => Box::new(table.iter().map(move |e| convert(table, &e))),
            None => Box::new(std::iter::empty()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_of_a_table_comes_with_its_terms_and_description() {
        let cpu: CpuId = "GenuineIntel-6-8F-8".parse().unwrap();
        // The x86 tables are in every build of this crate for x86.
        let Some(table) = Table::for_cpu(&cpu).unwrap() else { return };
        let vendor = Vendor { table: OnceLock::from(Some(table)) };
        let found = vendor.find("l1d.replacement");
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].pmu, "default_core");
        assert!(found[0].terms.starts_with("event=0x51"), "{:?}", found[0]);
        assert!(!found[0].description.is_empty());
        assert!(vendor.iter().count() > 500);
    }
}
