//! The processes of a shell's session: finding them, and leaving none.

use std::{collections::BTreeSet, process::Child, time::Duration};

use nix::{
    sys::signal::{self, Signal, killpg},
    unistd::Pid,
};

/// Time between asking and killing.
const GRACE: Duration = Duration::from_millis(500);
/// How often to look whether all have gone.
const STEP: Duration = Duration::from_millis(20);

/// Sends a signal to every process group of the session.
pub(super) fn signal_session(leader: Pid, signal: Signal) {
    for group in groups(leader) {
        super::send(group, signal);
    }
}

/// Hangs up the session and kills what is left of it a moment later; the child is waited for. In a thread of its own:
/// it has to happen even while the runtime stops.
pub(super) fn end_session(leader: Pid, child: Option<Child>) {
    if child.is_none() && !is_alive(leader) {
        return;
    }
    signal_session(leader, signal::SIGHUP);
    // A stopped process acts on the signal only when it goes on.
    signal_session(leader, signal::SIGCONT);
    let reaper = std::thread::Builder::new()
        .name("socketpipe-reaper".to_owned())
        .stack_size(64 * 1024);
    if let Err(error) = reaper.spawn(move || reap(leader, child)) {
        tracing::warn!(%error, "no thread to end a session with");
        signal_session(leader, signal::SIGKILL);
    }
}

fn reap(leader: Pid, mut child: Option<Child>) {
    let mut waited = Duration::ZERO;
    loop {
        if let Some(running) = &mut child
            && !matches!(running.try_wait(), Ok(None))
        {
            child = None;
        }
        if child.is_none() && !is_alive(leader) {
            return;
        }
        if waited >= GRACE {
            break;
        }
        std::thread::sleep(STEP);
        waited += STEP;
    }
    // Twice: a process may have forked between looking and killing.
    for _ in 0..2 {
        signal_session(leader, signal::SIGKILL);
        if let Some(running) = &mut child {
            // Killed: it ends.
            drop(running.wait());
            child = None;
        }
    }
}

/// Whether the session has processes.
fn is_alive(leader: Pid) -> bool {
    groups(leader)
        .into_iter()
        .any(|group| killpg(group, None).is_ok())
}

/// The process groups of the session. Interactive shells make one for each job.
#[cfg(target_os = "linux")]
fn groups(leader: Pid) -> BTreeSet<Pid> {
    let mut groups = BTreeSet::new();
    let Ok(folder) = std::fs::read_dir("/proc") else {
        return BTreeSet::from([leader]);
    };
    for entry in folder.flatten() {
        let name = entry.file_name();
        let is_process = name
            .to_str()
            .is_some_and(|name| name.parse::<i32>().is_ok());
        if !is_process {
            continue;
        }
        // A process that has ended meanwhile has no file.
        let Ok(stat) = std::fs::read_to_string(entry.path().join("stat")) else {
            continue;
        };
        if let Some((group, session)) = parse_stat(&stat)
            && session == leader.as_raw()
        {
            groups.insert(Pid::from_raw(group));
        }
    }
    groups
}

/// Elsewhere: the group of the shell itself. Others get SIGHUP from the shell or from the closed terminal.
#[cfg(not(target_os = "linux"))]
fn groups(leader: Pid) -> BTreeSet<Pid> {
    BTreeSet::from([leader])
}

/// Process group and session of a line of `/proc/<pid>/stat` (proc(5)), unless the process is a zombie. The name of
/// the program, in parentheses, may hold anything.
#[cfg(target_os = "linux")]
fn parse_stat(stat: &str) -> Option<(i32, i32)> {
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_whitespace();
    let state = fields.next()?;
    let group = fields.nth(1)?.parse().ok()?;
    let session = fields.next()?.parse().ok()?;
    (state != "Z").then_some((group, session))
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn reads_group_and_session_behind_any_name() {
        assert_eq!(parse_stat("7 (sh) S 1 70 700 34816 7 0"), Some((70, 700)));
        assert_eq!(parse_stat("7 (a) b (c) R 1 70 700 0"), Some((70, 700)));
        assert_eq!(parse_stat("7 (sh) Z 1 70 700 0"), None);
        assert_eq!(parse_stat("nonsense"), None);
    }
}
