//! How a table of a vendor's events joins in.

use std::fmt;

/// An event out of a vendor's table, for the CPU of this host.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct VendorEvent {
    /// Name, as in `-e`; case does not count.
    pub name: String,
    /// PMU that counts it: of sysfs, or `cpu` or `default_core` for every core
    /// PMU. `uncore_imc` stands for `uncore_imc_0` and its siblings too.
    pub pmu: String,
    /// What stands between the slashes: `event=0x3c,umask=0x1`.
    pub terms: String,
    /// What it counts.
    pub description: String,
    /// Unit of a value after [`Self::scale`]; empty for a count.
    pub unit: String,
    /// What a count is multiplied by; `None` is 1.
    pub scale: Option<f64>,
    /// The topic it is listed under; may be empty.
    pub topic: String,
}

/// The vendor's events of this host.
pub trait VendorEvents: fmt::Debug + Send + Sync {
    /// Those of that name, case aside: more than one if several PMUs count it, as
    /// on a hybrid machine.
    fn find(&self, name: &str) -> Vec<VendorEvent>;

    /// All, in any order.
    fn iter(&self) -> Box<dyn Iterator<Item = VendorEvent> + '_>;
}

/// No table.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoVendorEvents;

impl VendorEvents for NoVendorEvents {
    fn find(&self, _: &str) -> Vec<VendorEvent> {
        Vec::new()
    }

    fn iter(&self) -> Box<dyn Iterator<Item = VendorEvent> + '_> {
        Box::new(std::iter::empty())
    }
}
