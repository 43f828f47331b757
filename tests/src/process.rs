//! Servers in processes of their own: what they use of the machine can be read, and bounded.

use std::{
    net::SocketAddr,
    path::Path,
    process::Stdio,
    time::{Duration, Instant},
};

use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines},
    process::{Child, ChildStdin, ChildStdout, Command},
};

/// A server in a process of its own; it is killed when this is dropped.
#[derive(Debug)]
pub struct ServerProcess {
    child: Child,
    questions: ChildStdin,
    answers: Lines<BufReader<ChildStdout>>,
    addr: SocketAddr,
}

impl ServerProcess {
    /// Starts `program` (`tested-server`, which only a test knows where to find) with this config.
    ///
    /// # Panics
    /// If it does not start.
    pub async fn start(program: &str, config: &Path) -> Self {
        Self::start_with(program, config, "ulimit -n unlimited 2>/dev/null").await
    }

    /// The same with at most so many descriptors, which it cannot raise.
    ///
    /// # Panics
    /// If it does not start.
    pub async fn with_descriptors(program: &str, config: &Path, most: u32) -> Self {
        Self::start_with(program, config, &format!("ulimit -n {most}")).await
    }

    async fn start_with(program: &str, config: &Path, before: &str) -> Self {
        let script = format!("{before}; exec '{program}' '{}'", config.display());
        let mut child = Command::new("sh")
            .args(["-c", &script])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("a shell");
        let questions = child.stdin.take().expect("its stdin is a pipe");
        let mut answers = BufReader::new(child.stdout.take().expect("its stdout is a pipe")).lines();
        let line = answers.next_line().await.expect("a line").expect("where it listens");
        Self { child, questions, answers, addr: line.parse().expect("an address") }
    }

    /// Its one port.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// As a URL without TLS.
    pub fn url(&self) -> String {
        format!("http://{}", self.addr)
    }

    /// The memory it has now, in bytes.
    ///
    /// # Panics
    /// If it is gone.
    pub fn memory(&self) -> u64 {
        let status = self.read("status");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("a line of VmRSS");
        let kilobytes = line.trim().trim_end_matches(" kB");
        kilobytes.parse::<u64>().expect("a number") * 1024
    }

    /// How many descriptors it has open.
    ///
    /// # Panics
    /// If it is gone.
    pub fn descriptors(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.id())).expect("it runs").count()
    }

    /// How many tasks it has.
    ///
    /// # Panics
    /// If it is gone.
    pub async fn tasks(&mut self) -> usize {
        self.questions.write_all(b"?\n").await.expect("it runs");
        let answer = self.answers.next_line().await.expect("a line").expect("it runs");
        answer.parse().expect("a number")
    }

    /// The processor time it has used so far.
    ///
    /// # Panics
    /// If it is gone.
    pub fn processor_time(&self) -> Duration {
        let stat = self.read("stat");
        // The second field is its name, in parentheses; user and system time are the 14th and 15th, in ticks of 10 ms.
        let (_, fields) = stat.rsplit_once(") ").expect("its name");
        let ticks =
            fields.split(' ').skip(11).take(2).map(|field| field.parse::<u32>().expect("a number")).sum::<u32>();
        Duration::from_millis(10) * ticks
    }

    /// Reads what it uses every now and then while something goes on.
    pub async fn watch<T>(&self, during: impl Future<Output = T>) -> (T, Use) {
        let (since, before) = (Instant::now(), self.processor_time());
        let mut most_memory = self.memory();
        let mut during = std::pin::pin!(during);
        let result = loop {
            tokio::select! {
                result = during.as_mut() => break result,
                () = tokio::time::sleep(Duration::from_millis(50)) => most_memory = most_memory.max(self.memory()),
            }
        };
        let processors = (self.processor_time() - before).div_duration_f64(since.elapsed());
        (result, Use { processors, most_memory: most_memory.max(self.memory()) })
    }

    fn id(&self) -> u32 {
        self.child.id().expect("nobody has waited for it")
    }

    fn read(&self, file: &str) -> String {
        std::fs::read_to_string(format!("/proc/{}/{file}", self.id())).expect("it runs")
    }
}

/// What a process used of the machine for some time.
#[derive(Debug, Clone, Copy)]
pub struct Use {
    /// How many, on average.
    pub processors: f64,
    /// In bytes.
    pub most_memory: u64,
}
