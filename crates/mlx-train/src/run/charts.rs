//! The pictures of a run, from its numbers.

use super::{About, Metrics};
use crate::{Result, chart::Chart};
use std::{fs, path::Path};

/// A chart, and where it goes.
#[derive(Debug, Clone)]
pub struct Plot {
    /// The name of its files, without the ending.
    pub file: String,
    /// What it shows, in a word or two.
    pub heading: String,
    /// The picture, without a title.
    pub chart: Chart,
}

/// Every chart that the metrics have two points for.
pub(super) fn plots(about: &About, metrics: &Metrics) -> Vec<Plot> {
    let plot = |file: &str, heading: &str, chart: Chart| Plot {
        file: file.into(),
        heading: heading.into(),
        chart,
    };
    let line = |chart: Chart, label: &str, name: &str, scale: f64| {
        let points = metrics.series(name);
        let scaled = points.iter().map(|&(step, value)| (step as f64, value * scale));
        if points.is_empty() { chart } else { chart.line(label, scaled) }
    };
    let one = |y: &str, label: &str, name: &str, scale: f64| {
        line(Chart::new("").axes("step", y), label, name, scale)
    };

    // A perplexity is exp(loss) of a loss in nats; without one, nobody said what the unit is.
    let has_nats = !metrics.series("perplexity").is_empty();
    let loss = if has_nats { "loss (nats)" } else { "loss" };
    let mut loss = one(loss, "training", "loss", 1.0);
    loss = held_out(loss, metrics, "loss");
    for (label, value) in &about.references {
        loss = loss.reference(label, *value);
    }
    let mut plots = vec![plot("loss", "Loss", loss)];
    for name in metrics.names().filter_map(|name| name.strip_prefix(HELD_OUT)) {
        if !["loss", "perplexity"].contains(&name) {
            let chart = one(name, "training", name, 1.0);
            plots.push(plot(&file_name(name), name, held_out(chart, metrics, name)));
        }
    }
    let rate = one("learning rate", "", "learning_rate", 1.0);
    let norm = one("norm, before clipping", "", "grad_norm", 1.0);
    plots.push(plot("learning_rate", "Learning rate", rate));
    plots.push(plot("grad_norm", "Gradient norm", norm));

    let per_second = format!("{}/s", if about.unit.is_empty() { "targets" } else { &about.unit });
    let throughput = one(&per_second, "", "tokens_per_second", 1.0);
    plots.push(plot("throughput", "Throughput", throughput));

    let mut time = Chart::new("").axes("step", "ms per step");
    for part in ["compute", "data", "save"] {
        time = line(time, part, &format!("{part}_seconds"), 1e3);
    }
    plots.push(plot("step_time", "Step time", time));

    let kinds = ["active", "peak", "cache", "resident", "swap"];
    let kinds = kinds.map(|kind| (kind, format!("{kind}_bytes")));
    let all = kinds.iter().flat_map(|(_, name)| metrics.series(name));
    let highest = all.map(|point| point.1).fold(0.0, f64::max);
    let (unit, bytes) =
        if highest >= GIBIBYTE { ("GiB", GIBIBYTE) } else { ("MiB", GIBIBYTE / 1024.0) };
    let mut memory = Chart::new("").axes("step", format!("memory ({unit})"));
    // A line at zero, as of a run that does not swap, says nothing.
    let has_some = |name: &str| metrics.series(name).iter().any(|point| point.1 > 0.0);
    for (kind, name) in kinds.iter().filter(|(_, name)| has_some(name)) {
        memory = line(memory, kind, name, bytes.recip());
    }
    plots.push(plot("memory", "Memory", memory));

    let utilization = one("% of the peak", "", "model_flops_utilization", 100.0);
    plots.push(plot("utilization", "Model FLOPs utilisation", utilization));
    plots.retain(|plot| plot.chart.has_line());
    plots
}

/// Writes every chart as SVG and PNG into a folder, which it makes, and returns the files.
pub(super) fn save(about: &About, metrics: &Metrics, folder: &Path) -> Result<Vec<Plot>> {
    let plots = plots(about, metrics);
    if !plots.is_empty() {
        let failed = |source| crate::file::FileError::Folder { path: folder.to_owned(), source };
        fs::create_dir_all(folder).map_err(failed)?;
    }
    for Plot { file, heading, chart } in &plots {
        let title = if about.title.is_empty() {
            heading.clone()
        } else {
            format!("{}: {}", about.title, heading.to_lowercase())
        };
        let chart = chart.clone().title(title);
        for extension in ["svg", "png"] {
            // Not `with_extension`, which would take a metric's name apart at its last dot.
            chart.save(folder.join(file).with_added_extension(extension))?;
        }
    }
    Ok(plots)
}

/// What names of metrics on held-out data begin with.
pub(super) const HELD_OUT: &str = "held_out_";

const GIBIBYTE: f64 = 1_073_741_824.0;

fn held_out(chart: Chart, metrics: &Metrics, name: &str) -> Chart {
    let points = metrics.series(&format!("{HELD_OUT}{name}"));
    if points.is_empty() {
        return chart;
    }
    chart.dotted_line("held out", points.iter().map(|&(step, value)| (step as f64, value)))
}

/// A metric's name as that of a file, on every system.
fn file_name(metric: &str) -> String {
    let is_plain = |c: char| c.is_alphanumeric() || "-_".contains(c);
    metric.chars().map(|c| if is_plain(c) { c } else { '_' }).collect()
}
