//! The processes that an audit has met.

use std::collections::HashMap;

use prof_model::record::Ident;
use prof_model::record::Process;

use crate::audit_list::processes::Containers;

/// Most that are remembered: beyond, the paths of those met first are forgotten.
const MAX: usize = 1 << 16;

/// Processes by id, with what was told of each once.
#[derive(Debug)]
pub struct People {
    met: HashMap<u32, Process>,
    exe_of: fn(u32) -> Option<Vec<u8>>,
    containers: Option<Containers>,
}

impl People {
    /// Nobody yet; `exe_of` finds the path of a process that was not told.
    pub fn new(exe_of: fn(u32) -> Option<Vec<u8>>) -> Self {
        Self { met: HashMap::new(), exe_of, containers: None }
    }

    /// Who knows the containers of cgroups.
    pub fn set_containers(&mut self, containers: Containers) {
        self.containers = Some(containers);
    }

    /// A process as it is now, with the path of what it runs if that came along.
    pub fn meet(
        &mut self,
        ident: Ident,
        path: Option<Vec<u8>>,
        container: Option<String>,
    ) -> Process {
        let earlier = self.met.get(&ident.pid).filter(|p| p.ident.start_ns == ident.start_ns);
        let same = earlier.filter(|p| p.ident.exec == ident.exec);
        // A child runs its parent's program until it executes one.
        let parent = || self.met.get(&ident.ppid).filter(|_| ident.exec == 0);
        let exe = path
            .filter(|p| !p.is_empty())
            .or_else(|| same.and_then(|p| p.exe.clone()))
            .or_else(|| parent().and_then(|p| p.exe.clone()))
            .or_else(|| (self.exe_of)(ident.pid));
        let stays = earlier.filter(|p| p.ident.cgroup_id == ident.cgroup_id);
        let container_id = container.or_else(|| stays.and_then(|p| p.container_id.clone()));
        let container_id = match &mut self.containers {
            Some(of) => of.of(ident.cgroup_id, container_id),
            None => container_id,
        };
        let process = Process { ident, exe, container_id, ..Process::default() };
        if self.met.len() >= MAX {
            self.met.clear();
        }
        self.met.insert(process.ident.pid, process.clone());
        process
    }

    /// What is known of a process.
    pub fn get(&self, pid: u32) -> Option<&Process> {
        self.met.get(&pid)
    }

    /// It has ended.
    pub fn forget(&mut self, pid: u32) {
        self.met.remove(&pid);
    }
}
