//! The hosts of a launch, from the JSON that Python's `mlx.launch` reads.
//!
//! Source: `Hostfile.from_file` in MLX 0.32.2, `python/mlx/_distributed_utils/common.py`.

use crate::{Error, Result, distributed::Backend, file::FileError, launch::Launch};
use serde_json::{Map, Value};
use std::{
    fmt::Display,
    fs::File,
    io::Read,
    path::{Path, PathBuf},
};

/// The hosts of a launch, one for each rank, as the JSON file says that Python's `mlx.launch` reads, too.
///
/// A list of hosts, or an object with the list, what connects them and what they are to find in their environment:
///
/// ```json
/// {
///     "backend": "jaccl",
///     "envs": ["MLX_METAL_FAST_SYNCH=1"],
///     "hosts": [
///         {"ssh": "studio-1", "ips": ["192.168.1.1"], "rdma": [null, "rdma_en2"]},
///         {"ssh": "studio-2", "ips": ["192.168.1.2"], "rdma": ["rdma_en2", null]}
///     ]
/// }
/// ```
///
/// `ssh` is the name to log in to, `ips` are the addresses at which the others reach the host, and `rdma` the devices
/// that lead from it to each host, which `jaccl` needs.
#[derive(Debug, Clone, PartialEq)]
pub struct Hostfile {
    path: PathBuf,
    backend: Option<Backend>,
    variables: Variables,
    pub(super) hosts: Vec<Host>,
}

/// Names and values, in the order in which they are set.
pub(super) type Variables = Vec<(String, String)>;

/// Where one rank runs.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Host {
    /// The name to log in to.
    pub(super) name: String,
    /// The addresses at which the others reach it.
    pub(super) ips: Vec<String>,
    /// The devices to each host: null, a name, or several.
    pub(super) rdma: Vec<Value>,
}

impl Host {
    /// One that is this machine, and alone.
    pub(super) fn here() -> Self {
        Self { name: "localhost".into(), ips: vec!["127.0.0.1".into()], rdma: Vec::new() }
    }

    /// Whether it is this machine, by its name.
    pub(super) fn is_here(&self) -> bool {
        ["localhost", "127.0.0.1", "::1"].contains(&self.name.as_str())
    }
}

/// What a hostfile looks like, for the messages.
const EXAMPLE: &str =
    r#"[{"ssh": "mac-1", "ips": ["192.168.1.1"]}, {"ssh": "mac-2", "ips": ["192.168.1.2"]}]"#;

impl Hostfile {
    /// The size of a file that is read: a thousand hosts take a tenth of it.
    pub const MAX_BYTES: u64 = 1 << 20;

    /// Reads a hostfile.
    ///
    /// # Errors
    /// When it cannot be read, or is not one; the message names the file, the host, the field and what to write there.
    pub fn read(path: impl Into<PathBuf>) -> Result<Self> {
        let path = path.into();
        let failed = |source| FileError::Read { path: path.clone(), source };
        let mut text = Vec::new();
        let file = File::open(&path).map_err(failed)?;
        // A device or a pipe has no size, and no end, either.
        file.take(Self::MAX_BYTES + 1).read_to_end(&mut text).map_err(failed)?;
        let at = At { path: &path, host: None };
        if text.len() as u64 > Self::MAX_BYTES {
            let most = Self::MAX_BYTES;
            return Err(at.refuse(format!(
                "it has more than {most} bytes, which a hostfile of {} hosts does not need; name the right file",
                Launch::MAX_RANKS
            )));
        }
        let json = serde_json::from_slice(&text)
            .map_err(|error| at.refuse(format!("it is no JSON: {error}; mend it there")))?;
        let (backend, variables, hosts) = match json {
            Value::Array(hosts) => (None, Vec::new(), hosts),
            Value::Object(fields) => at.object(fields)?,
            other => {
                return Err(at.refuse(format!(
                    "it holds {}; write a list of hosts, as in {EXAMPLE}, or an object with such a list as `hosts`",
                    kind(&other)
                )));
            }
        };
        if !(1..=Launch::MAX_RANKS).contains(&hosts.len()) {
            return Err(at.refuse(format!(
                "it has {} hosts; list 1 to {}, one for each rank",
                hosts.len(),
                Launch::MAX_RANKS
            )));
        }
        let hosts = hosts.into_iter().enumerate();
        let hosts = hosts.map(|(index, host)| At { path: &path, host: Some(index) }.host(host));
        let hosts = hosts.collect::<Result<_>>()?;
        Ok(Self { path, backend, variables, hosts })
    }

    /// How many ranks it has: one for each host that is listed.
    pub fn num_ranks(&self) -> usize {
        self.hosts.len()
    }

    /// What connects them, if it says so.
    pub fn backend(&self) -> Option<Backend> {
        self.backend
    }

    /// What all ranks are to find in their environment.
    pub(super) fn variables(&self) -> &[(String, String)] {
        &self.variables
    }

    /// An error about one of the hosts.
    pub(super) fn refuse(&self, host: usize, what: impl Display) -> Error {
        At { path: &self.path, host: Some(host) }.refuse(what)
    }
}

/// Takes `NAME=VALUE` apart; without a value, it is empty.
///
/// # Errors
/// When the name is none that a shell takes.
pub(super) fn variable(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').unwrap_or((text, ""));
    let mut letters = name.chars();
    let is_first = |first: char| first.is_ascii_alphabetic() || first == '_';
    let is_name = letters.next().is_some_and(is_first)
        && letters.all(|letter| letter.is_ascii_alphanumeric() || letter == '_');
    if is_name && !value.contains('\0') {
        return Ok((name.into(), value.into()));
    }
    Err(format!(
        "{text:?} is no variable; write NAME=VALUE, with letters, digits and _ in the name"
    ))
}

/// What an error is about: the file, or one of its hosts.
#[derive(Clone, Copy)]
struct At<'a> {
    path: &'a Path,
    host: Option<usize>,
}

impl At<'_> {
    fn refuse(self, what: impl Display) -> Error {
        let host = self.host.map(|host| format!(", host {host}")).unwrap_or_default();
        Error::message(format!("`{}`{host}: {what}", self.path.display()))
    }

    /// The backend, the variables and the hosts of a whole object.
    fn object(
        self,
        mut fields: Map<String, Value>,
    ) -> Result<(Option<Backend>, Variables, Vec<Value>)> {
        let mut variables = match fields.remove("envs") {
            None => Vec::new(),
            Some(envs) => {
                let envs = self.strings("envs", envs, "NAME=VALUE")?;
                let variables = envs.iter().enumerate().map(|(index, text)| {
                    variable(text).map_err(|what| self.refuse(format!("`envs[{index}]`: {what}")))
                });
                variables.collect::<Result<Vec<_>>>()?
            }
        };
        let backend = match fields.remove("backend") {
            None => None,
            Some(Value::String(name)) => match name.as_str() {
                "" => None,
                // A name of `mlx.launch` for JACCL that prefers a ring to all-to-all.
                "jaccl-ring" => {
                    variables.push(("MLX_JACCL_RING".into(), "1".into()));
                    Some(Backend::Jaccl)
                }
                name => {
                    let unknown = |error| self.refuse(format!("`backend`: {error}"));
                    Some(name.parse().map_err(unknown)?)
                }
            },
            Some(other) => {
                return Err(self.wrong_type("backend", &other, "a string", "\"ring\""));
            }
        };
        let hosts = match fields.remove("hosts") {
            Some(Value::Array(hosts)) => hosts,
            Some(other) => return Err(self.wrong_type("hosts", &other, "a list", EXAMPLE)),
            None => {
                return Err(self.refuse(format!("`hosts` is missing; write it, as in {EXAMPLE}")));
            }
        };
        self.nothing_else(&fields, "backend, envs and hosts")?;
        Ok((backend, variables, hosts))
    }

    fn host(self, host: Value) -> Result<Host> {
        let Value::Object(mut fields) = host else {
            return Err(
                self.refuse(format!("it is {}; write an object, as in {EXAMPLE}", kind(&host)))
            );
        };
        let name = match fields.remove("ssh") {
            Some(Value::String(name)) => self.name(name)?,
            Some(other) => return Err(self.wrong_type("ssh", &other, "a string", "\"mac-1\"")),
            None => {
                return Err(self.refuse(
                    "`ssh` is missing; write the name to log in to, as in \"ssh\": \"mac-1\", or \"localhost\"",
                ));
            }
        };
        let ips = match fields.remove("ips") {
            None => Vec::new(),
            Some(ips) => self.strings("ips", ips, "192.168.1.1")?,
        };
        for (index, ip) in ips.iter().enumerate() {
            self.address(index, ip)?;
        }
        let rdma = match fields.remove("rdma") {
            None => Vec::new(),
            Some(Value::Array(devices)) => devices,
            Some(other) => {
                return Err(self.wrong_type("rdma", &other, "a list", "[null, \"rdma_en2\"]"));
            }
        };
        for (index, device) in rdma.iter().enumerate() {
            if !is_device(device) {
                let field = format!("rdma[{index}]");
                let wanted = "null, the name of a device or a list of names";
                return Err(self.wrong_type(&field, device, wanted, "\"rdma_en2\""));
            }
        }
        self.nothing_else(&fields, "ssh, ips and rdma")?;
        Ok(Host { name, ips, rdma })
    }

    /// A name that `ssh` takes as one.
    fn name(self, name: String) -> Result<String> {
        let is_odd = |letter: char| letter.is_whitespace() || letter.is_control();
        if name.is_empty() || name.starts_with('-') || name.contains(is_odd) {
            return Err(self.refuse(format!(
                "`ssh` is {name:?}, which is no name to log in to; write one, as in \"mac-1\" or \"me@mac-1\""
            )));
        }
        Ok(name)
    }

    fn address(self, index: usize, ip: &str) -> Result<()> {
        let is_plain =
            |letter: char| letter.is_ascii_alphanumeric() || letter == '.' || letter == '-';
        if !ip.is_empty() && ip.chars().all(is_plain) {
            return Ok(());
        }
        let fix = match ip.rsplit_once(':') {
            Some((host, port)) if !host.contains(':') && port.parse::<u16>().is_ok() => {
                "leave the port out, since --port says it"
            }
            Some(_) => "MLX connects ranks over IPv4 alone, so write such an address",
            None => "write an address, as in 192.168.1.1",
        };
        Err(self.refuse(format!("`ips[{index}]` is {ip:?}; {fix}")))
    }

    fn strings(self, field: &str, value: Value, example: &str) -> Result<Vec<String>> {
        let Value::Array(values) = value else {
            return Err(self.wrong_type(field, &value, "a list", &format!("[\"{example}\"]")));
        };
        let string = |(index, value)| match value {
            Value::String(text) => Ok(text),
            other => {
                let field = format!("{field}[{index}]");
                Err(self.wrong_type(&field, &other, "a string", &format!("\"{example}\"")))
            }
        };
        values.into_iter().enumerate().map(string).collect()
    }

    fn wrong_type(self, field: &str, value: &Value, wanted: &str, example: &str) -> Error {
        self.refuse(format!("`{field}` is {}; write {wanted}, as in {example}", kind(value)))
    }

    /// A name that is misspelt would be one that is left out.
    fn nothing_else(self, fields: &Map<String, Value>, known: &str) -> Result<()> {
        match fields.keys().next() {
            None => Ok(()),
            Some(field) => Err(self.refuse(format!(
                "there is no field {field:?}; there are {known}, so correct its name or take it away"
            ))),
        }
    }
}

fn is_device(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::String(name) => !name.is_empty(),
        Value::Array(names) => {
            names.iter().all(|name| name.as_str().is_some_and(|it| !it.is_empty()))
        }
        _ => false,
    }
}

fn kind(value: &Value) -> String {
    match value {
        Value::Null => "null".into(),
        Value::Bool(_) | Value::Number(_) => value.to_string(),
        Value::String(_) => "a string".into(),
        Value::Array(_) => "a list".into(),
        Value::Object(_) => "an object".into(),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::fs;

    fn read(text: &str) -> Result<Hostfile> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("hosts.json");
        fs::write(&path, text).unwrap();
        Hostfile::read(path)
    }

    #[test]
    fn both_forms_of_mlx_launch_are_read() {
        let hosts = r#"[{"ssh": "a", "ips": ["10.0.0.1", "10.0.1.1"]}, {"ssh": "me@b"}]"#;
        let list = read(hosts).unwrap();
        assert_eq!((list.num_ranks(), list.backend()), (2, None));
        assert_eq!(list.hosts[0].ips, ["10.0.0.1", "10.0.1.1"]);
        assert_eq!(list.hosts[1], Host { name: "me@b".into(), ips: vec![], rdma: vec![] });
        let whole = format!(r#"{{"backend": "ring", "envs": ["A=1=2", "_B"], "hosts": {hosts}}}"#);
        let whole = read(&whole).unwrap();
        assert_eq!((whole.backend(), &whole.hosts), (Some(Backend::Ring), &list.hosts));
        let variable = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        assert_eq!(whole.variables(), [variable("A", "1=2"), variable("_B", "")]);
        // What `mlx.distributed_config` writes where nothing is chosen, and its other name for JACCL.
        let text = r#"{"backend": "", "envs": [], "hosts": [{"ssh": "a", "ips": [], "rdma": []}]}"#;
        assert_eq!(read(text).unwrap().backend(), None);
        let ring = r#"{"backend": "jaccl-ring", "hosts": [{"ssh": "a", "rdma": [null]}]}"#;
        let ring = read(ring).unwrap();
        assert_eq!(ring.backend(), Some(Backend::Jaccl));
        assert_eq!(ring.variables(), [variable("MLX_JACCL_RING", "1")]);
        let devices = r#"[{"ssh": "a", "rdma": [null, "en2", ["en3", "en4"]]}]"#;
        assert_eq!(read(devices).unwrap().hosts[0].rdma.len(), 3);
    }

    #[test]
    fn what_is_no_hostfile_is_refused_with_its_place_and_the_fix() {
        let host = |fields: &str| format!(r#"[{{"ssh": "a"}}, {{{fields}}}]"#);
        let object = |fields: &str| format!(r#"{{{fields}, "hosts": [{{"ssh": "a"}}]}}"#);
        for (text, said) in [
            (String::new(), "hosts.json`: it is no JSON: EOF"),
            ("[\n{]".into(), "line 2 column 2; mend it there"),
            ("7".into(), "it holds 7; write a list of hosts, as in [{"),
            ("\u{feff}[]".into(), "it is no JSON"),
            ("[".repeat(100_000), "it is no JSON: recursion limit"),
            ("[]".into(), "it has 0 hosts; list 1 to 1024"),
            (format!("[{}{{}}]", "{},".repeat(1024)), "it has 1025 hosts"),
            ("{}".into(), "`hosts` is missing; write it, as in ["),
            (r#"{"hosts": {}}"#.into(), "`hosts` is an object; write a list"),
            (object(r#""backend": "tcp""#), "`backend`: there is no backend `tcp`"),
            (object(r#""backend": null"#), "`backend` is null; write a string"),
            (
                object(r#""envs": "A=1""#),
                "`envs` is a string; write a list, as in [\"NAME=VALUE\"]",
            ),
            (object(r#""envs": ["A=1", "1A=1"]"#), "`envs[1]`: \"1A=1\" is no variable"),
            (object(r#""envs": [{}]"#), "`envs[0]` is an object; write a string"),
            (
                object(r#""env": []"#),
                "there is no field \"env\"; there are backend, envs and hosts",
            ),
            (r#"["a"]"#.into(), "host 0: it is a string; write an object"),
            (host(""), "host 1: `ssh` is missing"),
            (host(r#""ssh": 7"#), "host 1: `ssh` is 7; write a string"),
            (host(r#""ssh": """#), "host 1: `ssh` is \"\", which is no name"),
            (host(r#""ssh": "-oProxyCommand=x""#), "which is no name to log in to"),
            (host(r#""ssh": "a b""#), "host 1: `ssh` is \"a b\""),
            (host(r#""ssh": "b", "ips": "10.0.0.1""#), "host 1: `ips` is a string; write a list"),
            (host(r#""ssh": "b", "ips": [true]"#), "host 1: `ips[0]` is true; write a string"),
            (host(r#""ssh": "b", "ips": ["10.0.0.1", ""]"#), "host 1: `ips[1]` is \"\"; write an"),
            (host(r#""ssh": "b", "ips": ["10.0.0.1:80"]"#), "leave the port out, since --port"),
            (host(r#""ssh": "b", "ips": ["fe80::1"]"#), "IPv4 alone"),
            (host(r#""ssh": "b", "rdma": "en2""#), "host 1: `rdma` is a string; write a list"),
            (host(r#""ssh": "b", "rdma": [null, 1]"#), "host 1: `rdma[1]` is 1; write null, the"),
            (host(r#""ssh": "b", "rdma": [["en2", null]]"#), "host 1: `rdma[0]` is a list"),
            (
                host(r#""ssh": "b", "ip": []"#),
                "host 1: there is no field \"ip\"; there are ssh, ips",
            ),
        ] {
            let refused = read(&text).unwrap_err().to_string();
            assert!(refused.contains(said), "{text:.80}\n{refused}\nlacks {said}");
            assert!(refused.contains("hosts.json"), "{refused}");
        }
    }

    #[test]
    fn a_file_that_is_far_too_large_or_never_ends_is_not_read_to_its_end() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("weights.safetensors");
        File::create(&path).unwrap().set_len(100_000_000).unwrap();
        for path in [path, "/dev/zero".into()] {
            let refused = Hostfile::read(path).unwrap_err().to_string();
            assert!(refused.contains("more than 1048576 bytes"), "{refused}");
        }
        let missing = Hostfile::read("/no/such/hosts.json").unwrap_err().to_string();
        assert!(missing.contains("/no/such/hosts.json") && missing.contains("check the path"));
    }
}
