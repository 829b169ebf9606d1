//! The report of a run: one page of HTML with everything inside, that opens without network.
//!
//! It has no script, and every text that comes from outside is escaped.

mod html;

use super::{
    About, Entry, EventKind, Metrics, RunFolder, Session, Status,
    charts::{self, HELD_OUT, Plot},
    journal,
};
use crate::{
    Result,
    clock::{duration, utc},
    file::FileError,
    profile::Bytes,
    progress::grouped,
    store::Checkpoints,
};
use html::Html;
use std::{fs, io::ErrorKind};

/// How many events the page lists; the last ones matter most.
const MAX_EVENTS: usize = 200;

/// The page of a run, from whatever its folder has.
pub(super) fn page(folder: &RunFolder) -> Result<String> {
    let about = About::read(&folder.about())?;
    let metrics = Metrics::read(folder.metrics())?;
    let events = journal::read(&folder.events())?;
    let title = title(folder, &about);
    let status = journal::status(&events);
    let sections = [
        header(&title, &about, &metrics, &events, status),
        numbers(&about, &metrics),
        Html::section("Curves", vec![curves(&about, &metrics)?]),
        Html::section("Events", vec![event_table(&events), damage(&metrics)]),
        Html::section("Checkpoints", vec![checkpoint_table(folder)?]),
        Html::section("Environment", environment(&about)),
        Html::section("Settings", vec![settings(folder)?]),
        footer(folder),
    ];
    let head = Html::element(
        "head",
        [
            Html::raw("<meta charset=\"utf-8\">\n"),
            Html::raw("<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n"),
            Html::element("title", [Html::text(&format!("{title}: {}", describe(status)))]),
            Html::element("style", [Html::raw(include_str!("style.css"))]),
        ],
    );
    let body = Html::element("body", [Html::element("main", sections)]);
    Ok(format!(
        "<!doctype html>\n{}",
        Html::element("html lang=\"en\"", [head, body]).into_string()
    ))
}

/// The run's title, or the name of its folder.
fn title(folder: &RunFolder, about: &About) -> String {
    if !about.title.is_empty() {
        return about.title.clone();
    }
    let path = fs::canonicalize(folder.path()).unwrap_or_else(|_| folder.path().to_owned());
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

fn describe(status: Status) -> &'static str {
    match status {
        Status::Finished => "finished",
        Status::Stopped => "stopped before its last step",
        Status::Failed => "failed",
        Status::Open => "running, or killed",
    }
}

fn header(title: &str, about: &About, metrics: &Metrics, events: &[Entry], status: Status) -> Html {
    let class = match status {
        Status::Finished => "status finished",
        Status::Failed => "status failed",
        Status::Stopped | Status::Open => "status",
    };
    let state = Html::element(&format!("span class=\"{class}\""), [Html::text(describe(status))]);
    let mut lead = vec![state];
    let mut say = |text: String| lead.push(Html::text(&format!(" · {text}")));
    let last_step = metrics.last_step();
    match (last_step, about.sessions.last()) {
        (Some(step), Some(session)) => {
            say(format!("step {} of {}", grouped(step), grouped(session.steps)));
        }
        (Some(step), None) => say(format!("step {}", grouped(step))),
        (None, _) => say("no numbers yet".into()),
    }
    if let Some(session) = about.sessions.first() {
        say(format!("began {} UTC", utc(session.started as u64)));
    }
    let times = [metrics.last("time"), events.last().map(|event| event.time)];
    if let Some(time) = times.into_iter().flatten().reduce(f64::max) {
        say(format!("last heard of {} UTC", utc(time as u64)));
    }
    let failure = events.iter().rev().find(|event| event.kind == EventKind::Failed);
    let reason = match failure.filter(|_| status == Status::Failed) {
        Some(failure) => Html::element("p class=\"reason\"", [Html::text(&failure.text)]),
        None => Html::default(),
    };
    let heading = Html::element("h1", [Html::text(title)]);
    Html::element("header", [heading, Html::element("p class=\"lead\"", lead), reason])
}

/// The numbers that most people look for first.
fn numbers(about: &About, metrics: &Metrics) -> Html {
    let unit = if about.unit.is_empty() { "targets" } else { &about.unit };
    let mut items: Vec<(String, String, String)> = Vec::new();
    let mut item = |label: &str, value: String, remark: String| {
        items.push((label.to_owned(), value, remark));
    };
    let fixed = |value: f64| format!("{value:.4}");
    if let Some(loss) = metrics.last("loss") {
        item("training loss", fixed(loss), String::new());
    }
    let held_out = metrics.names().filter_map(|name| name.strip_prefix(HELD_OUT));
    for name in held_out {
        let series = metrics.series(&format!("{HELD_OUT}{name}"));
        let Some(&(_, last)) = series.last() else { continue };
        let lowest = series.iter().min_by(|a, b| a.1.total_cmp(&b.1));
        let best = lowest.filter(|lowest| name == "loss" && lowest.1 < last);
        let remark = best.map(|(step, value)| format!("best {value:.4} at {}", grouped(*step)));
        item(&format!("held-out {name}"), fixed(last), remark.unwrap_or_default());
    }
    if let Some(session) = about.sessions.last().filter(|session| session.num_parameters > 0) {
        let Session { num_parameters, num_trainable, .. } = *session;
        let frozen = num_parameters - num_trainable.min(num_parameters);
        let remark = if frozen > 0 { format!("{} frozen", grouped(frozen)) } else { String::new() };
        item("parameters", grouped(num_parameters), remark);
    }
    let elapsed = metrics.series("elapsed_seconds");
    if !elapsed.is_empty() {
        item("time", duration(total_elapsed(elapsed)), String::new());
    }
    if let Some(rate) = median(metrics.series("tokens_per_second")) {
        item("median speed", grouped(rate as u64), format!("{unit}/s"));
    }
    let highest = |name: &str| metrics.series(name).iter().map(|point| point.1).reduce(f64::max);
    if let Some(bytes) = highest("peak_bytes") {
        item("peak memory", Bytes(bytes as u64).to_string(), String::new());
    }
    if let Some(share) = median(metrics.series("model_flops_utilization")) {
        item("FLOPs utilisation", format!("{:.1} %", share * 100.0), "median".into());
    }
    for (label, loss) in &about.references {
        item(label, fixed(*loss), String::new());
    }
    if items.is_empty() {
        return Html::default();
    }
    let items = items.iter().map(|(label, value, remark)| {
        let remark = match remark.as_str() {
            "" => Html::default(),
            remark => Html::element("small", [Html::text(&format!(" {remark}"))]),
        };
        let value = Html::element("dd", [Html::text(value), remark]);
        Html::element("div", [Html::element("dt", [Html::text(label)]), value])
    });
    Html::element("dl", items)
}

/// The time of all processes together: in each, the clock begins anew.
fn total_elapsed(elapsed: &[(u64, f64)]) -> f64 {
    let before = [0.0].into_iter().chain(elapsed.iter().map(|point| point.1));
    let steps = before
        .zip(elapsed)
        .map(|(before, &(_, now))| if now < before { now } else { now - before });
    steps.sum()
}

fn median(points: &[(u64, f64)]) -> Option<f64> {
    let mut values: Vec<f64> = points.iter().map(|point| point.1).collect();
    let middle = values.len() / 2;
    (!values.is_empty()).then(|| *values.select_nth_unstable_by(middle, f64::total_cmp).1)
}

fn curves(about: &About, metrics: &Metrics) -> Result<Html> {
    let mut figures = Vec::new();
    for Plot { heading, chart, .. } in charts::plots(about, metrics) {
        let label =
            format!("<svg role=\"img\" aria-label=\"{}\" ", Html::text(&heading).into_string());
        let picture = Html::raw(chart.svg()?.replacen("<svg ", &label, 1));
        let caption = Html::element("figcaption", [Html::text(&heading)]);
        figures.push(Html::element("figure", [caption, picture]));
    }
    if figures.is_empty() {
        return Ok(Html::default());
    }
    Ok(Html::element("div class=\"charts\"", figures))
}

fn event_table(events: &[Entry]) -> Html {
    // Checkpoints that are still there have a table of their own.
    let events: Vec<_> = events.iter().filter(|event| event.kind != EventKind::Saved).collect();
    let shown = &events[events.len().saturating_sub(MAX_EVENTS)..];
    let rows = shown.iter().map(|event| {
        let kind = Html::text(event.kind.name());
        let kind = if event.kind.is_trouble() {
            Html::element("span class=\"trouble\"", [kind])
        } else {
            kind
        };
        let step = event.step.map(grouped).unwrap_or_default();
        vec![Html::text(&utc(event.time as u64)), Html::text(&step), kind, Html::text(&event.text)]
    });
    let table = Html::table(
        &["time (UTC)", "step", "event", ""],
        &["nowrap", "number", "nowrap", "text"],
        rows.collect(),
    );
    let earlier = events.len() - shown.len();
    if earlier == 0 {
        return table;
    }
    let note = format!("{} earlier events are in events.jsonl.", grouped(earlier as u64));
    Html::element("div", [Html::element("p class=\"lead\"", [Html::text(&note)]), table])
}

fn damage(metrics: &Metrics) -> Html {
    if metrics.num_damaged() == 0 {
        return Html::default();
    }
    let note = format!("{} damaged lines of metrics.jsonl are left out.", metrics.num_damaged());
    Html::element("p class=\"trouble\"", [Html::text(&note)])
}

/// The checkpoints as far as their manifests tell; `checkpoint verify` looks closer.
fn checkpoint_table(folder: &RunFolder) -> Result<Html> {
    // A run without checkpoints has no such folder.
    let Ok(checkpoints) = Checkpoints::open(folder.checkpoints()) else {
        return Ok(Html::default());
    };
    let marks = [("latest", checkpoints.latest()?), ("best", checkpoints.best()?)];
    let marks = marks.map(|(mark, entry)| (mark, entry.map(|entry| entry.step)));
    let rows = checkpoints.list()?.into_iter().map(|entry| {
        let of_entry = marks.iter().filter(|(_, step)| *step == Some(entry.step));
        let marks = of_entry.map(|(mark, _)| *mark).collect::<Vec<_>>().join(", ");
        let cells = match &entry.manifest {
            Ok(manifest) => {
                let metric = manifest.metric.as_ref();
                let metric = metric.map(|metric| format!("{} {:.4}", metric.name, metric.value));
                let size = Bytes(manifest.num_bytes()).to_string();
                [utc(manifest.saved_at_seconds), size, metric.unwrap_or_default(), marks]
            }
            Err(error) => [String::new(), String::new(), String::new(), error.to_string()],
        };
        let step = Html::text(&grouped(entry.step));
        [step].into_iter().chain(cells.iter().map(|cell| Html::text(cell))).collect()
    });
    Ok(Html::table(
        &["step", "saved (UTC)", "size", "metric", ""],
        &["number", "nowrap", "number", "nowrap", ""],
        rows.collect(),
    ))
}

fn environment(about: &About) -> Vec<Html> {
    let Some((last, earlier)) = about.sessions.split_last() else { return Vec::new() };
    let rows = last.environment.rows().into_iter();
    let rows = rows.map(|(label, value)| vec![Html::text(label), Html::text(&value)]);
    let mut parts = vec![Html::table(&[], &["label", "text"], rows.collect())];
    if !earlier.is_empty() {
        let row = |session: &Session| {
            let command = session.environment.command_line();
            let began = utc(session.started as u64);
            vec![Html::text(&began), Html::text(&grouped(session.first_step)), Html::text(&command)]
        };
        let rows = earlier.iter().map(row).collect();
        let table = Html::table(
            &["began (UTC)", "at step", "command"],
            &["nowrap", "number", "text"],
            rows,
        );
        let summary = Html::element("summary", [Html::text("Earlier processes of this run")]);
        parts.push(Html::element("details", [summary, table]));
    }
    parts
}

fn settings(folder: &RunFolder) -> Result<Html> {
    let path = folder.config();
    match fs::read(&path) {
        Ok(bytes) => {
            let text = String::from_utf8_lossy(&bytes);
            Ok(Html::element("pre", [Html::text(text.trim_end())]))
        }
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(Html::default()),
        Err(source) => Err(FileError::Read { path, source }.into()),
    }
}

/// Where the numbers are, for whoever wants more than the page.
fn footer(folder: &RunFolder) -> Html {
    let files = ["metrics.jsonl", "events.jsonl", "trace.json", "config.toml", "run.json"];
    let there = files.iter().filter(|file| folder.path().join(file).is_file());
    let links: Vec<_> = there.map(|file| format!("<a href=\"{file}\">{file}</a>")).collect();
    if links.is_empty() {
        return Html::default();
    }
    let text = format!("Beside this page: {}.", links.join(", "));
    Html::element("footer", [Html::raw(text)])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_of_resumed_processes_is_added_up() {
        let elapsed = [(10, 5.0), (20, 9.0), (30, 2.0), (40, 4.0)];
        assert!((total_elapsed(&elapsed) - 13.0).abs() < 1e-12);
    }
}
