//! What the kernel counts about a process, read from `/proc`.

use std::{fs, io, time::Duration};

/// Ticks per second of the times in `/proc/<pid>/stat`; 100 on every Linux architecture.
const TICKS: u64 = 100;

/// CPU time a process has used, in user and kernel mode.
pub fn cpu(pid: u32) -> io::Result<Duration> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The name in parentheses may contain anything, so count from behind it.
    let rest = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    // proc_pid_stat(5): utime is field 14, stime field 15; `rest` starts with field 3.
    let mut fields = rest.split_whitespace().skip(11);
    let mut next = || -> u64 { fields.next().and_then(|f| f.parse().ok()).unwrap_or(0) };
    let ticks = next() + next();
    Ok(Duration::from_millis(ticks * 1000 / TICKS))
}

/// Resident memory of a process and its highest value so far, in KiB.
pub fn rss_kib(pid: u32) -> io::Result<(u64, u64)> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let field = |name: &str| {
        status
            .lines()
            .find_map(|line| line.strip_prefix(name))
            .and_then(|rest| rest.split_whitespace().next())
            .and_then(|number| number.parse().ok())
            .unwrap_or(0)
    };
    Ok((field("VmRSS:"), field("VmHWM:")))
}

/// Open file descriptors of a process.
pub fn fds(pid: u32) -> io::Result<usize> {
    Ok(fs::read_dir(format!("/proc/{pid}/fd"))?.count())
}

/// Datagrams the kernel dropped at the IPv4 UDP sockets bound to `port`, for want of buffer.
pub fn udp_drops(port: u16) -> io::Result<u64> {
    let suffix = format!(":{port:04X}");
    Ok(fs::read_to_string("/proc/net/udp")?
        .lines()
        .filter(|line| {
            line.split_whitespace()
                .nth(1)
                .is_some_and(|local| local.ends_with(&suffix))
        })
        .filter_map(|line| line.split_whitespace().last()?.parse::<u64>().ok())
        .sum())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_figures_of_this_process() {
        let pid = std::process::id();
        let (now, peak) = rss_kib(pid).unwrap();
        assert!(now > 0 && peak >= now);
        assert!(fds(pid).unwrap() >= 3);
        let before = cpu(pid).unwrap();
        let start = std::time::Instant::now();
        while start.elapsed() < Duration::from_millis(60) {
            std::hint::spin_loop();
        }
        assert!(cpu(pid).unwrap() > before);
    }
}
