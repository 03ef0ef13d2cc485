//! stub
#![allow(missing_docs)]
#[derive(Debug,Clone,Default)]
pub struct Tables { pub rules:u64, pub follow:u64, pub uses_eq:[u64;12], pub dims:u32, pub numbers:Vec<(Dim,u64,Match)>, pub strings:Vec<(Dim,Vec<u8>,Match)>, pub tree_roots:Vec<(u32,Match)>, pub cgroup_v1:Option<u32> }
#[derive(Debug,Clone,Copy,Default)] pub struct Match{pub eq:u64,pub ne:u64}
#[derive(Debug,Clone,Copy)] #[repr(u32)] pub enum Dim { Uid, Gid, Pid, Cgroup, Mntns, Pidns, Container, Tree, Comm, CommSuffix, Exe, ExeSuffix }
