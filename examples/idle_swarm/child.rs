//! A process that this program has started, and what the kernel counts about it.

use std::{error::Error, fs, io, process::Stdio, time::Duration};

use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines},
    process::{self, ChildStdin, ChildStdout, Command},
};

/// Ticks per second of the times in `/proc/<pid>/stat`; 100 on every Linux architecture.
const TICKS: u64 = 100;

/// Killed when it is dropped.
pub(crate) struct Child {
    process: process::Child,
    questions: ChildStdin,
    answers: Lines<BufReader<ChildStdout>>,
}

impl Child {
    /// Starts this program with these arguments.
    pub(crate) fn start(arguments: &[&str]) -> Result<Self, Box<dyn Error>> {
        let mut process = Command::new(std::env::current_exe()?)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let questions = process.stdin.take().ok_or("the process has no stdin")?;
        let output = process.stdout.take().ok_or("the process has no stdout")?;
        Ok(Self {
            process,
            questions,
            answers: BufReader::new(output).lines(),
        })
    }

    pub(crate) fn pid(&self) -> u32 {
        self.process.id().unwrap_or_default()
    }

    /// The next line that it prints.
    pub(crate) async fn line(&mut self) -> Result<String, Box<dyn Error>> {
        Ok(self
            .answers
            .next_line()
            .await?
            .ok_or("a process has ended")?)
    }

    /// How many connections it has.
    pub(crate) async fn ask(&mut self) -> Result<usize, Box<dyn Error>> {
        self.questions.write_all(b"?\n").await?;
        Ok(self.line().await?.parse()?)
    }
}

/// The questions of the process that started this one.
pub(crate) fn questions() -> Lines<BufReader<tokio::io::Stdin>> {
    BufReader::new(tokio::io::stdin()).lines()
}

/// CPU time a process has used, in user and kernel mode.
pub(crate) fn cpu(pid: u32) -> io::Result<Duration> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The name in parentheses may contain anything, so count from behind it.
    let rest = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    // proc_pid_stat(5): utime is field 14, stime field 15; `rest` starts with field 3.
    let fields = rest.split_whitespace().skip(11).take(2);
    let ticks: u64 = fields.filter_map(|field| field.parse::<u64>().ok()).sum();
    Ok(Duration::from_millis(ticks * 1000 / TICKS))
}

/// Datagrams that were dropped because the buffer of this UDP port was full; proc(5).
pub(crate) fn dropped(port: u16) -> io::Result<u64> {
    let table = fs::read_to_string("/proc/net/udp")?;
    let line = table.lines().find(|line| {
        let local = line.split_whitespace().nth(1);
        local.is_some_and(|local| local.ends_with(&format!(":{port:04X}")))
    });
    line.and_then(|line| line.split_whitespace().last()?.parse().ok())
        .ok_or_else(|| io::Error::other(format!("/proc/net/udp does not know port {port}")))
}

/// Resident memory of a process, in KiB.
pub(crate) fn resident_kib(pid: u32) -> io::Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let field = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let number = field.and_then(|rest| rest.split_whitespace().next());
    number
        .and_then(|number| number.parse().ok())
        .ok_or_else(|| io::Error::other("there is no VmRSS"))
}
