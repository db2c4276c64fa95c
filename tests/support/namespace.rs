//! Network namespaces, and threads inside them. This needs root.
//!
//! A socket stays in the namespace of the thread that created it. So a thread enters a namespace,
//! creates the sockets, and hands them out.

use std::{
    collections::BTreeSet,
    ffi::OsStr,
    fs::{self, File},
    io,
    os::fd::AsFd as _,
    panic::resume_unwind,
    process::{Command, Stdio},
    sync::{Mutex, PoisonError},
    thread,
};

use rustix::{
    process::{Pid, Signal, kill_process},
    thread::{LinkNameSpaceType, move_into_link_name_space},
};

/// The names of the namespaces of this process.
static EXISTING: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());

/// A network namespace with a loopback device. It is deleted on drop.
#[derive(Debug)]
pub(crate) struct NetworkNamespace {
    name: String,
}

impl NetworkNamespace {
    /// Creates a namespace whose name contains the label.
    ///
    /// # Errors
    /// If `ip` is missing, or this process may not create namespaces.
    pub(crate) fn new(label: &str) -> io::Result<NetworkNamespace> {
        let name = format!("report-{label}-{:08x}", fastrand::u32(..));
        ip(&["netns", "add", &name])?;
        existing(|names| names.insert(name.clone()));
        let namespace = NetworkNamespace { name };
        namespace.ip(&["link", "set", "lo", "up"])?;
        Ok(namespace)
    }

    /// The name for `ip netns`.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Runs `ip` on the devices of this namespace.
    ///
    /// # Errors
    /// If `ip` fails. The error contains its message.
    pub(crate) fn ip(&self, arguments: &[&str]) -> io::Result<()> {
        ip(&[&["-n", self.name.as_str()][..], arguments].concat())
    }

    /// The words that start a program in this namespace.
    pub(crate) fn exec_words(&self) -> Vec<String> {
        ["ip", "netns", "exec", &self.name]
            .map(str::to_owned)
            .to_vec()
    }

    /// A command that runs a program in this namespace. The process id is that of the program.
    pub(crate) fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name]).arg(program);
        command
    }

    /// Runs `work` on a thread inside the namespace. Threads that it starts are inside too.
    ///
    /// # Errors
    /// If the namespace cannot be entered.
    pub(crate) fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> io::Result<T> {
        let namespace = File::open(format!("/var/run/netns/{}", self.name))?;
        let inside = || {
            move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))?;
            Ok::<T, io::Error>(work())
        };
        thread::scope(|scope| {
            let thread = scope.spawn(inside);
            thread.join().unwrap_or_else(|panic| resume_unwind(panic))
        })
    }

    /// Sets a value of the namespace below `/proc/sys/net/ipv4`.
    ///
    /// # Errors
    /// If the value does not exist, or may not be written.
    pub(crate) fn set_ipv4(&self, name: &str, value: &str) -> io::Result<()> {
        let file = format!("/proc/sys/net/ipv4/{name}");
        self.run(|| fs::write(&file, value))?
            .map_err(|error| io::Error::new(error.kind(), format!("{name} = {value}: {error}")))
    }

    /// Sets the congestion control of new TCP connections in the namespace. Adds it to those that
    /// the machine allows, if necessary.
    ///
    /// # Errors
    /// If the kernel does not have it, or this process may not allow it.
    pub(crate) fn set_congestion_control(&self, name: &str) -> io::Result<()> {
        let set = || self.set_ipv4("tcp_congestion_control", name);
        set().or_else(|_| {
            allow_congestion_control(name)?;
            set()
        })
    }
}

impl Drop for NetworkNamespace {
    fn drop(&mut self) {
        existing(|names| names.remove(&self.name));
        // An error means that it is gone, which is the wanted result.
        let _ = ip(&["netns", "delete", &self.name]);
    }
}

/// Kills the processes in all namespaces of this process, and deletes the namespaces, because this
/// process is about to exit without dropping them.
pub(crate) fn delete_all() {
    for name in existing(std::mem::take) {
        kill_processes(&name);
        let _ = ip(&["netns", "delete", &name]);
    }
}

fn existing<T>(access: impl FnOnce(&mut BTreeSet<String>) -> T) -> T {
    access(&mut EXISTING.lock().unwrap_or_else(PoisonError::into_inner))
}

fn kill_processes(namespace: &str) {
    let Ok(listed) = Command::new("ip")
        .args(["netns", "pids", namespace])
        .output()
    else {
        return;
    };
    let ids = String::from_utf8_lossy(&listed.stdout).into_owned();
    let ids = ids.split_whitespace().filter_map(|id| id.parse().ok());
    for process in ids.filter_map(Pid::from_raw) {
        // An error means that it has ended, which is the wanted result.
        let _ = kill_process(process, Signal::KILL);
    }
}

/// Lets namespaces use a congestion control. The setting is one for the whole machine, and stays
/// until the next boot.
fn allow_congestion_control(name: &str) -> io::Result<()> {
    const FOLDER: &str = "/proc/sys/net/ipv4";
    let available = fs::read_to_string(format!("{FOLDER}/tcp_available_congestion_control"))?;
    if !available.split_whitespace().any(|known| known == name) {
        return Err(io::Error::new(
            io::ErrorKind::NotFound,
            format!("the kernel has no congestion control {name} (modprobe tcp_{name})"),
        ));
    }
    let file = format!("{FOLDER}/tcp_allowed_congestion_control");
    let allowed = fs::read_to_string(&file)?;
    fs::write(&file, format!("{} {name}", allowed.trim())).map_err(|error| {
        io::Error::new(
            error.kind(),
            format!("cannot allow the congestion control {name} in {file}: {error}"),
        )
    })
}

/// Runs `ip` to its end.
///
/// # Errors
/// If it fails. The error contains its message.
pub(crate) fn ip(arguments: &[&str]) -> io::Result<()> {
    let run = Command::new("ip")
        .args(arguments)
        .stdin(Stdio::null())
        .output()?;
    if run.status.success() {
        return Ok(());
    }
    Err(io::Error::other(format!(
        "ip {}: {}",
        arguments.join(" "),
        String::from_utf8_lossy(&run.stderr).trim()
    )))
}
