//! Rules, as the kernel half evaluates them.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use crate::harness::*;

/// How many of the targets that `act` runs are named by the rule.
fn named(options: &[&str], act: impl FnOnce()) -> Vec<serde_json::Value> {
    // Only what this test starts: the host may be busy with the like.
    let own = format!("tree={}", std::process::id());
    let mut all = vec!["-s", &own];
    all.extend(options);
    named_anywhere(&all, act)
}

fn named_anywhere(options: &[&str], act: impl FnOnce()) -> Vec<serde_json::Value> {
    let watch = Watch::start(options);
    act();
    let records = watch.stop();
    records.assert_whole();
    records.profiles().into_iter().cloned().collect()
}

fn exits(n: i32) {
    for _ in 0..n {
        target_output(&["exit", "0"]);
    }
}

#[test]
fn comm_literal_prefix_suffix_and_not() {
    let Some(_turn) = live("comm=") else { return };
    for (rule, matches) in [
        ("comm=prof-target", true),
        ("comm=prof-tar*", true),
        ("comm=*-target", true),
        ("comm=other,prof-target", true),
        ("comm=prof", false),
        ("comm=rof-target", false),
        ("comm=*-targe", false),
        ("comm=prof-target-x", false),
    ] {
        let p = named(&["-s", rule], || exits(2));
        assert_eq!(p.len(), if matches { 2 } else { 0 }, "{rule}: {p:#?}");
    }
    let p = named(&["-s", "comm=prof*", "-s", "comm!=prof-target"], || exits(2));
    assert!(p.is_empty(), "{p:#?}");
}

#[test]
fn exe_by_full_path() {
    let Some(_turn) = live("exe=") else { return };
    let path = fs::canonicalize(target()).expect("a path");
    let dir = path.parent().expect("a folder");
    let exact = format!("exe={}", path.display());
    let prefix = format!("exe={}/*", dir.display());
    let suffix = "exe=*/prof-target".to_owned();
    for rule in [&exact, &prefix, &suffix] {
        let p = named(&["-s", rule], || exits(1));
        let ours: Vec<_> = p.iter().filter(|p| p["process"]["comm"] == "prof-target").collect();
        assert_eq!(ours.len(), 1, "{rule}");
        assert_eq!(ours[0]["process"]["exe"], path.to_str().expect("a path"));
    }
    let p = named(&["-s", &format!("exe={}x", path.display())], || exits(1));
    assert!(p.is_empty());
    // Through a link the path is that of the file.
    let links = tempfile::tempdir().expect("a folder");
    let link = links.path().join("linked");
    std::os::unix::fs::symlink(&path, &link).expect("a link");
    let p = named(&["-s", &exact], || {
        Command::new(&link).args(["exit", "0"]).status().expect("target");
    });
    assert_eq!(p.len(), 1);
    assert_eq!(p[0]["process"]["comm"], "linked");
}

#[test]
fn exe_across_a_mount() {
    let Some(_turn) = live("exe= on another file system") else { return };
    // /dev/shm is a mount of its own nearly everywhere; a deep folder on it.
    let Ok(dir) = tempfile::tempdir_in("/dev/shm") else { return };
    let deep = dir.path().join("a/b/c/d/e/f");
    fs::create_dir_all(&deep).expect("folders");
    let program = deep.join("copy");
    fs::copy(target(), &program).expect("a copy");
    let rule = format!("exe={}", program.display());
    let p = named(&["-s", &rule], || {
        Command::new(&program).args(["exit", "0"]).status().expect("copy");
    });
    assert_eq!(p.len(), 1);
    assert_eq!(p[0]["process"]["exe"], program.to_str().expect("a path"));
}

#[test]
fn users_and_groups() {
    let Some(_turn) = live("uid= and gid=") else { return };
    use std::os::unix::process::CommandExt as _;
    // Where nobody can execute it.
    let dir = tempfile::tempdir_in("/tmp").expect("a folder");
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    fs::set_permissions(dir.path(), mode).expect("permissions");
    let program = dir.path().join("prof-target");
    fs::copy(target(), &program).expect("a copy");
    let act = || {
        for (uid, gid) in [(0, 0), (12345, 0), (0, 54321), (12345, 54321)] {
            let s = Command::new(&program).args(["exit", "0"]).gid(gid).uid(uid).status();
            assert!(s.expect("target").success());
        }
    };
    let count = |rules: &[&str]| {
        let mut options = vec!["-s", "comm=prof-target"];
        for r in rules {
            options.extend(["-s", r]);
        }
        named(&options, act).len()
    };
    assert_eq!(count(&["uid=12345"]), 2);
    assert_eq!(count(&["uid=root"]), 2);
    assert_eq!(count(&["uid!=12345"]), 2);
    assert_eq!(count(&["gid=54321"]), 2);
    assert_eq!(count(&["uid=12345", "gid=54321"]), 1);
    assert_eq!(count(&["uid=12345,0"]), 4);
}

#[test]
fn trees_and_those_who_left_them() {
    let Some(_turn) = live("tree=") else { return };
    // A shell that waits, so that the tree can be named before it grows.
    let mut shell = Command::new("sh")
        .args([
            "-c",
            &format!("read x; {0} exit 0; {0} orphan @self sleep 50; :", target().display()),
        ])
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::null())
        .spawn()
        .expect("sh");
    let rule = format!("tree={}", shell.id());
    let p = named_anywhere(&["-s", &rule], || {
        drop(shell.stdin.take());
        shell.wait().expect("sh");
        exits(2);
        std::thread::sleep(std::time::Duration::from_millis(400));
    });
    let comms: Vec<_> = p.iter().filter_map(|p| p["process"]["comm"].as_str()).collect();
    assert_eq!(comms.iter().filter(|c| **c == "prof-target").count(), 2, "{comms:?}");
    assert_eq!(comms.iter().filter(|c| **c == "exe").count(), 1, "the orphan: {comms:?}");
}

#[test]
fn follow_takes_the_children_along() {
    let Some(_turn) = live("follow") else { return };
    let script = format!("{0} exit 0; {0} exit 0", target().display());
    let act = || {
        Command::new("sh").args(["-c", &format!("{script}; :")]).status().expect("sh");
    };
    let without = named(&["-s", "comm=sh"], act);
    assert!(without.iter().all(|p| p["process"]["comm"] == "sh"), "{without:#?}");
    let with = named(&["-s", "comm=sh", "-s", "follow"], act);
    let followed = with.iter().filter(|p| p["process"]["comm"] == "prof-target").count();
    assert_eq!(followed, 2, "{with:#?}");
}

/// A cgroup hierarchy that is mounted, and a group to make in it.
fn cgroups() -> Vec<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").expect("mountinfo");
    let mut found = Vec::new();
    for (kind, wanted) in [(" - cgroup2 ", ""), (" - cgroup ", "pids")] {
        if let Some(l) = mounts.lines().find(|l| l.contains(kind) && l.contains(wanted)) {
            found.push(PathBuf::from(l.split(' ').nth(4).expect("a mount point")));
        }
    }
    found
}

#[test]
fn cgroups_of_both_versions() {
    let Some(_turn) = live("cgroup=") else { return };
    let roots = cgroups();
    assert!(!roots.is_empty(), "no cgroup hierarchy is mounted");
    for root in roots {
        let group = root.join(format!("prof-test-{}", std::process::id()));
        let below = group.join("below");
        fs::create_dir_all(&below).expect("a cgroup");
        let rule = format!("cgroup={}", group.display());
        let p = named(&["-s", "comm=exe", "-s", &rule], || {
            for g in [&group, &below] {
                target_output(&["cgroup", g.to_str().expect("a path"), "@self", "exit", "0"]);
            }
            target_output(&["fork", "@self", "exit", "0"]);
        });
        let not = format!("cgroup!={}", group.display());
        let q = named(&["-s", "comm=exe", "-s", &not], || {
            target_output(&["cgroup", group.to_str().expect("a path"), "@self", "exit", "0"]);
            target_output(&["fork", "@self", "exit", "0"]);
        });
        for g in [&below, &group] {
            fs::remove_dir(g).expect("remove a cgroup");
        }
        assert_eq!(p.len(), 2, "{rule}: {p:#?}");
        assert_eq!(q.len(), 1, "{not}: {q:#?}");
    }
}

#[test]
fn containers_by_the_name_of_their_cgroup() {
    let Some(_turn) = live("container") else { return };
    let v2_first = cgroups();
    // The hierarchy that processes are told apart by: v2 if it is the host's.
    let root = match v2_first.iter().find(|p| p.as_path() == std::path::Path::new("/sys/fs/cgroup"))
    {
        Some(v2) => v2.clone(),
        None => ["memory", "pids", "cpu"]
            .iter()
            .map(|c| PathBuf::from(format!("/sys/fs/cgroup/{c}")))
            .find(|p| p.is_dir())
            .expect("a v1 hierarchy"),
    };
    let id = "0123456789abcdef".repeat(4);
    for name in [format!("docker-{id}.scope"), id.clone(), format!("cri-containerd-{id}.scope")] {
        let group = root.join(&name);
        let p = named(&["-s", "container", "-s", "comm=exe"], || {
            target_output(&["cgroup", group.to_str().expect("a path"), "@self", "exit", "0"]);
            target_output(&["fork", "@self", "exit", "0"]);
        });
        let q = named(&["-s", "not-container", "-s", "comm=exe"], || {
            target_output(&["cgroup", group.to_str().expect("a path"), "@self", "exit", "0"]);
        });
        fs::remove_dir(&group).expect("remove a cgroup");
        assert_eq!(p.len(), 1, "{name}: {p:#?}");
        assert_eq!(p[0]["process"]["container_id"], id);
        assert!(q.is_empty(), "{name}: {q:#?}");
    }
    // Nearly one, but not all hex.
    let near = root.join(format!("docker-{}g.scope", &id[1..]));
    let p = named(&["-s", "container", "-s", "comm=exe"], || {
        target_output(&["cgroup", near.to_str().expect("a path"), "@self", "exit", "0"]);
    });
    fs::remove_dir(&near).expect("remove a cgroup");
    assert!(p.is_empty(), "{p:#?}");
}

#[test]
fn namespaces() {
    let Some(_turn) = live("mntns= and pidns=") else { return };
    use std::os::unix::fs::MetadataExt as _;
    for (key, file) in [("mntns", "mnt"), ("pidns", "pid")] {
        let own = fs::metadata(format!("/proc/self/ns/{file}")).expect("a namespace").ino() as u32;
        let act = || {
            target_output(&["pidns", "@self", "exit", "0"]);
            exits(1);
        };
        let p = named(&["-s", "comm=exe,prof-target", "-s", &format!("{key}={own}")], act);
        let q = named(&["-s", "comm=exe,prof-target", "-s", &format!("{key}!={own}")], act);
        // Two targets in this namespace; the child is in a pid namespace of its own.
        let (inside, outside) = if key == "pidns" { (2, 1) } else { (3, 0) };
        assert_eq!((p.len(), q.len()), (inside, outside), "{key}");
    }
}

#[test]
fn a_pid_by_its_next_exec() {
    let Some(_turn) = live("pid=") else { return };
    let mut shell = Command::new("sh")
        .args(["-c", &format!("read x; exec {} exit 6", target().display())])
        .stdin(std::process::Stdio::piped())
        .spawn()
        .expect("sh");
    let pid = u64::from(shell.id());
    let p = named(&["-s", &format!("pid={pid}")], || {
        drop(shell.stdin.take());
        shell.wait().expect("sh");
        exits(2);
    });
    assert_eq!(p.len(), 1, "{p:#?}");
    assert_eq!(p[0]["process"]["pid"], pid);
    assert_eq!(p[0]["exit"]["code"], 6);
}

#[test]
fn sixty_four_rules_each_named() {
    let Some(_turn) = live("64 rules") else { return };
    let mut options: Vec<String> = Vec::new();
    for i in 0..61 {
        options.extend(["--rule".into(), format!("no{i}: comm=never-{i}")]);
    }
    options.extend(["--rule".into(), "byname: comm=prof-target".into()]);
    options.extend(["--rule".into(), "bypath: exe=*/prof-target".into()]);
    options.extend(["-s".into(), "uid=0".into(), "-s".into(), "comm=prof-t*".into()]);
    let options: Vec<_> = options.iter().map(String::as_str).collect();
    let p = named(&options, || exits(1));
    let me = u64::from(std::process::id());
    let p: Vec<_> = p.iter().filter(|p| p["process"]["ppid"] == me).collect();
    assert_eq!(p.len(), 1, "{p:#?}");
    let mut rules: Vec<_> =
        p[0]["rules"].as_array().expect("rules").iter().filter_map(|r| r.as_str()).collect();
    rules.sort_unstable();
    assert_eq!(rules, ["byname", "bypath", "scope"]);
    let mut more = options.clone();
    more.extend(["--rule", "one: comm=too-many"]);
    let output = command("watch").args(&more).output().expect("prof");
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("64"));
}

#[test]
fn what_no_rule_names_costs_one_evaluation_and_no_entry() {
    let Some(_turn) = live("unmatched processes") else { return };
    let records = {
        let watch = Watch::start(&["-s", "comm=nothing-is"]);
        exits(20);
        watch.stop()
    };
    assert!(records.profiles().is_empty());
    assert_eq!(records.end()["enabled"], 0);
    assert!(records.end()["execs"]["seen"].as_u64() >= Some(20));
}
