//! Ratios for people: of the frameworks in one run, and to the lines of an earlier one.

use crate::record::Record;
use mlx_train::{Error, Result, profile::Bytes};
use serde::Deserialize;
use std::{fmt::Write as _, fs, path::Path};

/// What tables need of a record; an earlier line of this benchmark has it, too.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Line {
    benchmark: String,
    framework: String,
    model: String,
    dtype: String,
    compiled: bool,
    #[serde(default)]
    ahead: bool,
    /// Those alone that were used of our kernels.
    #[serde(default)]
    kernels: Option<String>,
    /// From how many bytes on it waits for what runs.
    #[serde(default)]
    memory_limit: Option<u64>,
    seconds: Median,
    peak_bytes: Option<u64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
struct Median {
    median: f64,
}

impl Line {
    pub fn of(record: &Record) -> Self {
        Self {
            benchmark: record.benchmark.into(),
            framework: record.framework.into(),
            model: record.model.into(),
            dtype: record.dtype.into(),
            compiled: record.compiled,
            ahead: record.further["ahead"] == true,
            kernels: record.further["kernels"].as_str().map(str::to_owned),
            memory_limit: record.further["memory_limit"].as_u64(),
            seconds: Median { median: record.seconds.median },
            peak_bytes: Some(record.peak_bytes).filter(|&bytes| bytes > 0),
        }
    }

    fn label(&self) -> String {
        let Self { framework, compiled, ahead, kernels, memory_limit, .. } = self;
        let modes = [(*compiled, ", compiled"), (*ahead, ", ahead")];
        let modes: String = modes.iter().filter(|(is, _)| *is).map(|(_, mode)| *mode).collect();
        let kernels = kernels.as_ref().map(|names| format!(", {names}")).unwrap_or_default();
        let limit =
            memory_limit.map(|limit| format!(", within {}", Bytes(limit))).unwrap_or_default();
        format!("{framework}{modes}{kernels}{limit}")
    }

    fn is_of(&self, other: &Self) -> bool {
        let Self { seconds, peak_bytes, .. } = *other;
        Self { seconds, peak_bytes, ..self.clone() } == *other
    }
}

/// The lines of a file that are of this benchmark, the newest of a kind last.
pub fn read(path: &Path) -> Result<Vec<Line>> {
    let text = fs::read_to_string(path)
        .map_err(|error| Error::message(format!("cannot read {}: {error}", path.display())))?;
    let lines = text.lines().filter(|line| !line.trim().is_empty());
    let lines: Vec<Line> = lines
        .filter_map(|line| serde_json::from_str(line).ok())
        .filter(|line: &Line| line.benchmark == "training")
        .collect();
    if lines.is_empty() {
        let path = path.display();
        return Err(Error::message(format!("{path} has no line of the benchmark `training`")));
    }
    Ok(lines)
}

/// Each framework of one run against the first.
pub fn ratios(model: &str, lines: &[Line]) -> String {
    let Some(ours) = lines.first() else { return String::new() };
    let mut text = format!("{model:<44}{:>12}{:>9}{:>12}\n", "step", "of ours", "peak");
    for line in lines {
        let peak = line.peak_bytes.map(|bytes| Bytes(bytes).to_string()).unwrap_or_default();
        let (milliseconds, ratio) =
            (1e3 * line.seconds.median, line.seconds.median / ours.seconds.median);
        _ = writeln!(text, "  {:<42}{milliseconds:>9.2} ms{ratio:>9.2}{peak:>12}", line.label());
    }
    text
}

/// Each line against the newest earlier one of its kind.
pub fn against(earlier: &[Line], lines: &[Line]) -> String {
    let mut text = String::new();
    for line in lines {
        let before = earlier.iter().rev().find(|before| before.is_of(line));
        let label = line.label();
        let Some(before) = before else {
            _ = writeln!(text, "  {label:<42} was not measured earlier");
            continue;
        };
        let time = line.seconds.median / before.seconds.median;
        _ = write!(text, "  {label:<42}{time:>9.2} of the earlier time");
        if let Some((now, then)) = line.peak_bytes.zip(before.peak_bytes) {
            _ = write!(text, ", {:.2} of its peak", now as f64 / then as f64);
        }
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;

    fn line(framework: &str, median: f64) -> Line {
        let (benchmark, model, dtype) = ("training".into(), "gpt-s".into(), "float32".into());
        let (seconds, framework) = (Median { median }, framework.into());
        Line {
            benchmark,
            framework,
            model,
            dtype,
            compiled: false,
            ahead: false,
            kernels: None,
            memory_limit: None,
            seconds,
            peak_bytes: Some(1 << 20),
        }
    }

    #[test]
    fn a_ratio_is_to_the_newest_earlier_line_of_the_same_kind() -> Result<()> {
        let mut file = tempfile::NamedTempFile::new().map_err(|e| Error::message(e.to_string()))?;
        let text = r#"{"benchmark":"memory"}
{"benchmark":"training","framework":"mlx-train","model":"gpt-s","dtype":"float32","compiled":false,"seconds":{"median":9.0,"p10":1.0},"peak_bytes":1048576}
{"benchmark":"training","framework":"mlx-train","model":"gpt-s","dtype":"float32","compiled":false,"seconds":{"median":2.0},"peak_bytes":2097152}
"#;
        file.write_all(text.as_bytes()).map_err(|e| Error::message(e.to_string()))?;
        let told = against(&read(file.path())?, &[line("mlx-train", 1.0), line("burn", 1.0)]);
        assert!(told.contains("0.50 of the earlier time, 0.50 of its peak"), "{told}");
        assert!(told.contains("burn") && told.contains("was not measured earlier"), "{told}");
        Ok(())
    }

    #[test]
    fn ratios_are_to_the_first_line() {
        let told = ratios("gpt-s", &[line("mlx-train", 0.5), line("PyTorch", 0.25)]);
        assert!(
            told.contains("500.00 ms     1.00") && told.contains("250.00 ms     0.50"),
            "{told}"
        );
    }
}
