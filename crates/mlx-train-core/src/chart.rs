//! Line charts as PNG and SVG: what a run measured, or will do, over its steps.

use crate::{
    Result,
    file::write_whole,
    train::{History, TrainingPoint},
};
use plotters::{
    coord::Shift,
    element::DashedPathElement,
    prelude::*,
    style::{FontStyle, register_font},
};
use std::{
    error::Error as StdError,
    ffi::OsStr,
    ops::Range,
    path::{Path, PathBuf},
};

/// A picture of one or more lines over a common horizontal axis.
///
/// ```no_run
/// # use mlx_train_core::chart::Chart;
/// let rates = [(0.0, 0.0), (100.0, 1e-3), (1000.0, 0.0)];
/// let chart = Chart::new("Warm-up and cosine").axes("step", "learning rate").line("AdamW", rates);
/// chart.save("schedule.png")?;
/// chart.save("schedule.svg")?;
/// # Ok::<(), mlx_train_core::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct Chart {
    title: String,
    axes: [String; 2],
    lines: Vec<Line>,
    references: Vec<(String, f64)>,
}

/// A chart that cannot be drawn.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ChartError {
    /// No line has two points.
    #[error("there are no two points to draw a line through: report more often")]
    NoLine,
    /// A file of another format.
    #[error("cannot draw `{}`: its name ends in neither .png nor .svg; name one of these formats", .0.display())]
    Format(PathBuf),
    /// The drawing itself failed.
    #[error("cannot draw the chart: {0}")]
    Drawing(String),
}

/// One line of a chart; `dots` is the radius of its points.
#[derive(Debug, Clone)]
struct Line {
    name: String,
    points: Vec<(f64, f64)>,
    dots: u32,
}

type DrawResult = Result<(), Box<dyn StdError>>;

/// The size that lengths are given in: small, so that text is legible where a page is narrow.
const WIDTH: u32 = 480;
const HEIGHT: u32 = 300;
/// An SVG's coordinates are whole numbers, so there are this many of them in a unit of length.
const SVG_SCALE: u32 = 10;
/// A PNG is drawn larger by this, and then averaged: thick lines come without smooth edges.
const PNG_SCALE: u32 = 5;
const SUPERSAMPLING: u32 = 2;
const PNG_SIZE: (u32, u32) =
    (WIDTH * PNG_SCALE / SUPERSAMPLING, HEIGHT * PNG_SCALE / SUPERSAMPLING);
const FONT: &str = "sans-serif";
/// Blue, vermilion, purple, orange and black are told apart in every common colour blindness.
/// Source: Okabe and Ito, "Color Universal Design", <https://jfly.uni-koeln.de/color/>.
const LINES: [RGBColor; 5] = [
    RGBColor(0, 114, 178),
    RGBColor(213, 94, 0),
    RGBColor(171, 84, 138),
    RGBColor(230, 159, 0),
    RGBColor(0, 0, 0),
];
const REFERENCE: RGBColor = RGBColor(0, 125, 95);
const INK: RGBColor = RGBColor(40, 40, 40);
const GRID: RGBColor = RGBColor(225, 225, 225);
/// More points than this on a line are thinned, as no picture of ours has more columns.
const COLUMNS: usize = 1200;

impl Chart {
    /// A chart without lines; an empty title takes no room.
    pub fn new(title: impl Into<String>) -> Self {
        Self {
            title: title.into(),
            axes: ["step".into(), String::new()],
            lines: Vec::new(),
            references: Vec::new(),
        }
    }

    /// The training and held-out loss of a run over its steps, in nats.
    pub fn loss(title: impl Into<String>, history: &History) -> Self {
        let training = |point: &TrainingPoint| (point.step as f64, point.loss);
        let held_out = history.held_out.iter();
        Self::new(title)
            .axes("step", "loss (nats)")
            .line("training", history.training.iter().map(training))
            .dotted_line("held out", held_out.map(|p| (p.step as f64, p.evaluation.loss)))
    }

    /// Sets the title.
    #[must_use]
    pub fn title(self, title: impl Into<String>) -> Self {
        Self { title: title.into(), ..self }
    }

    /// Sets what the axes show, with its unit: `step` and nothing unless set.
    #[must_use]
    pub fn axes(self, x: impl Into<String>, y: impl Into<String>) -> Self {
        Self { axes: [x.into(), y.into()], ..self }
    }

    /// Adds a line through points in the order of x. Points that are not finite are left out.
    ///
    /// A line without a name is not in the legend.
    #[must_use]
    pub fn line(
        self,
        name: impl Into<String>,
        points: impl IntoIterator<Item = (f64, f64)>,
    ) -> Self {
        self.with_line(name.into(), points, 0)
    }

    /// Adds a line whose points are seen, for points that are few.
    #[must_use]
    pub fn dotted_line(
        self,
        name: impl Into<String>,
        points: impl IntoIterator<Item = (f64, f64)>,
    ) -> Self {
        self.with_line(name.into(), points, 2)
    }

    fn with_line(
        mut self,
        name: String,
        points: impl IntoIterator<Item = (f64, f64)>,
        dots: u32,
    ) -> Self {
        let finite = points.into_iter().filter(|(x, y)| x.is_finite() && y.is_finite());
        let points: Vec<_> = finite.collect();
        // Points that are close have no dots, or they would be a blot.
        let dots = if points.len() > 100 { 0 } else { dots };
        self.lines.push(Line { name, points: thinned(points), dots });
        self
    }

    /// Adds a horizontal line at a value to compare with. One that is not finite is left out.
    #[must_use]
    pub fn reference(mut self, label: impl Into<String>, value: f64) -> Self {
        if value.is_finite() {
            self.references.push((label.into(), value));
        }
        self
    }

    /// Whether there is a line to draw: two points at least, at different x.
    pub fn has_line(&self) -> bool {
        self.ranges().is_ok()
    }

    /// Writes the picture, whole or not at all, in the format of the ending `.png` or `.svg`.
    ///
    /// A PNG has 1200 x 750 pixels.
    ///
    /// # Errors
    /// [`ChartError`] for any other ending, or when there is no line to draw;
    /// [`FileError`](crate::file::FileError) when the file cannot be written.
    pub fn save(&self, path: impl AsRef<Path>) -> Result<()> {
        let path = path.as_ref();
        let extension = path.extension().map(OsStr::to_ascii_lowercase);
        let content = match extension.as_ref().and_then(|extension| extension.to_str()) {
            Some("png") => self.png()?,
            Some("svg") => self.svg()?.into_bytes(),
            _ => return Err(ChartError::Format(path.to_owned()).into()),
        };
        Ok(write_whole(path, content)?)
    }

    /// The picture as an `<svg>` element.
    ///
    /// # Errors
    /// [`ChartError`] when there is no line to draw.
    pub fn svg(&self) -> Result<String, ChartError> {
        let mut text = String::new();
        let size = (WIDTH * SVG_SCALE, HEIGHT * SVG_SCALE);
        let area = SVGBackend::with_string(&mut text, size).into_drawing_area();
        area.fill(&WHITE).map_err(|error| ChartError::Drawing(error.to_string()))?;
        self.draw(&area, SVG_SCALE)?;
        drop(area);
        // The view box keeps the fine coordinates; what a viewer shows at first is twice the unit.
        let [drawn, shown] = [size, (WIDTH * 2, HEIGHT * 2)]
            .map(|(width, height)| format!("width=\"{width}\" height=\"{height}\" viewBox"));
        Ok(text.replacen(&drawn, &shown, 1))
    }

    fn png(&self) -> Result<Vec<u8>, ChartError> {
        let size = (WIDTH * PNG_SCALE, HEIGHT * PNG_SCALE);
        let mut pixels = vec![WHITE.0; size.0 as usize * size.1 as usize * 3];
        let area = BitMapBackend::with_buffer(&mut pixels, size).into_drawing_area();
        self.draw(&area, PNG_SCALE)?;
        drop(area);
        encode(&average_blocks(&pixels)).map_err(|error| ChartError::Drawing(error.to_string()))
    }

    fn draw<B: DrawingBackend>(
        &self,
        area: &DrawingArea<B, Shift>,
        scale: u32,
    ) -> Result<(), ChartError>
    where
        B::ErrorType: 'static,
    {
        let ranges = self.ranges()?;
        self.draw_into(area, scale, ranges).map_err(|error| ChartError::Drawing(error.to_string()))
    }

    /// Draws into an area that is `scale` times as large as [`WIDTH`] and [`HEIGHT`].
    fn draw_into<B: DrawingBackend>(
        &self,
        area: &DrawingArea<B, Shift>,
        scale: u32,
        (xs, ys): (Range<f64>, Range<f64>),
    ) -> DrawResult
    where
        B::ErrorType: 'static,
    {
        // Text is drawn with the font inside of the library: no machine needs one installed.
        let font = epaint_default_fonts::UBUNTU_LIGHT;
        register_font(FONT, FontStyle::Normal, font).map_err(|_| "the built-in font is damaged")?;
        let text = |size: u32| (FONT, size * scale).into_font().color(&INK);
        let legend_line = |y: i32| [(0, y), (16 * scale as i32, y)];
        let shifted = move |(x, y): (i32, i32)| legend_line(y).map(|(dx, y)| (x + dx, y));

        let mut chart = ChartBuilder::on(area);
        chart.margin(10 * scale).margin_right(16 * scale);
        if !self.title.is_empty() {
            chart.caption(&self.title, text(15));
        }
        // Without a label the legend would be an empty box.
        let has_legend = self.labelled().next().is_some() || !self.references.is_empty();
        let (legend, ys) = if has_legend {
            self.room_for_legend(&xs, ys)
        } else {
            (SeriesLabelPosition::UpperRight, ys)
        };
        let [x_label, y_label] = &self.axes;
        let mut chart = chart
            .x_label_area_size(34 * scale)
            .y_label_area_size(if y_label.is_empty() { 44 } else { 58 } * scale)
            .build_cartesian_2d(xs.clone(), ys)?;
        chart
            .configure_mesh()
            .x_desc(x_label)
            .y_desc(y_label)
            .axis_desc_style(text(12))
            .label_style(text(11))
            .x_label_formatter(&|x| tick(*x))
            .y_label_formatter(&|y| tick(*y))
            .axis_style(INK.stroke_width(scale / 2))
            .bold_line_style(GRID.stroke_width(scale / 2))
            .light_line_style(TRANSPARENT)
            .set_all_tick_mark_size(3 * scale)
            .x_labels(6)
            .y_labels(6)
            .draw()?;

        for (label, value) in &self.references {
            let style = REFERENCE.stroke_width(scale);
            let (dash, gap) = (5 * scale, 3 * scale);
            let ends = [(xs.start, *value), (xs.end, *value)];
            chart
                .draw_series(DashedLineSeries::new(ends, dash, gap, style))?
                .label(format!("{label}: {}", short(*value)))
                .legend(move |at| DashedPathElement::new(shifted(at), dash, gap, style));
        }
        for (Line { name, points, dots }, color) in self.lines.iter().zip(LINES.iter().cycle()) {
            let Some(&(_, last)) = points.last() else {
                continue;
            };
            let style = color.stroke_width(scale * 3 / 2);
            // A single point has no line, so it needs its dot.
            let dots = if points.len() == 1 { 2 } else { *dots } * scale;
            let dot = |&point: &(f64, f64)| Circle::new(point, dots, color.filled());
            chart.draw_series(points.iter().filter(|_| dots > 0).map(dot))?;
            let line = chart.draw_series(LineSeries::new(points.iter().copied(), style))?;
            if !name.is_empty() {
                line.label(format!("{name}, last: {}", short(last)))
                    .legend(move |at| PathElement::new(shifted(at), style));
            }
        }
        if has_legend {
            chart
                .configure_series_labels()
                .position(legend)
                .margin(6 * scale)
                .legend_area_size(23 * scale)
                .label_font(text(11))
                .background_style(WHITE.mix(0.85))
                .border_style(GRID.stroke_width(scale / 2))
                .draw()?;
        }
        area.present()?;
        Ok(())
    }

    /// What the axes show: x from 0, y with some air.
    fn ranges(&self) -> Result<(Range<f64>, Range<f64>), ChartError> {
        let points = self.lines.iter().flat_map(|line| &line.points);
        let (first, last) = extremes(points.clone().map(|point| point.0));
        if first >= last || last <= 0.0 {
            return Err(ChartError::NoLine);
        }
        let references = self.references.iter().map(|reference| reference.1);
        let (low, high) = extremes(points.map(|point| point.1).chain(references));
        // A flat line has air above and below too.
        let margin = ((high - low) * 0.06).max(high.abs().max(low.abs()) * 1e-3).max(1e-12);
        let bottom = if low >= 0.0 { (low - margin).max(0.0) } else { low - margin };
        Ok((first.min(0.0)..last, bottom..high + margin))
    }

    /// The corner for the legend, and the values that the picture shows then.
    ///
    /// Where every corner has points, there is more air above, so that the legend hides none.
    fn room_for_legend(
        &self,
        xs: &Range<f64>,
        ys: Range<f64>,
    ) -> (SeriesLabelPosition, Range<f64>) {
        use SeriesLabelPosition::{LowerLeft, LowerRight, UpperLeft, UpperRight};
        let num_labels = self.labelled().count() + self.references.len();
        // Of the picture; the lines of text and the margins above and below.
        let height = 0.08 * num_labels as f64 + 0.1;
        let middle = f64::midpoint(xs.start, xs.end);
        let length = ys.end - ys.start;
        let (lower, upper) = (ys.start + height * length, ys.end - height * length);
        let lines = self.lines.iter().flat_map(|line| line.points.iter().copied());
        let ends = self.references.iter().flat_map(|(_, y)| [(xs.start, *y), (xs.end, *y)]);
        let points: Vec<_> = lines.chain(ends).collect();
        let has_none = |is_right: bool, is_upper: bool| {
            !points.iter().any(|&(x, y)| {
                (x > middle) == is_right && if is_upper { y > upper } else { y < lower }
            })
        };
        let corners = [
            (UpperRight, has_none(true, true)),
            (UpperLeft, has_none(false, true)),
            (LowerRight, has_none(true, false)),
            (LowerLeft, has_none(false, false)),
        ];
        match corners.into_iter().find(|(_, is_free)| *is_free) {
            Some((corner, _)) => (corner, ys),
            // Seven labels and more would leave less than half of the picture to the lines.
            None if num_labels > 6 => (UpperRight, ys),
            None => (UpperRight, ys.start..ys.end + length * height / (1.0 - height)),
        }
    }

    /// The lines that the legend names.
    fn labelled(&self) -> impl Iterator<Item = &Line> {
        self.lines.iter().filter(|line| !line.name.is_empty() && !line.points.is_empty())
    }
}

fn extremes(values: impl Iterator<Item = f64>) -> (f64, f64) {
    values.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), value| {
        (low.min(value), high.max(value))
    })
}

/// The first, the lowest, the highest and the last point of each column of the picture: no peak is lost.
///
/// A line through them covers the same pixels as one through all points.
/// Source: Jugel et al., "M4: A Visualization-Oriented Time Series Data Aggregation", VLDB 2014.
fn thinned(points: Vec<(f64, f64)>) -> Vec<(f64, f64)> {
    let (Some(&first), Some(&last)) = (points.first(), points.last()) else {
        return points;
    };
    let width = (last.0 - first.0) / COLUMNS as f64;
    if points.len() <= 4 * COLUMNS || width <= 0.0 {
        return points;
    }
    let column = |point: &(f64, f64)| ((point.0 - first.0) / width).floor();
    let by_value =
        |a: &usize, b: &usize, points: &[(f64, f64)]| points[*a].1.total_cmp(&points[*b].1);
    let columns = points.chunk_by(|a, b| column(a).total_cmp(&column(b)).is_eq());
    let of_column = |points: &[(f64, f64)]| {
        let lowest = (0..points.len()).min_by(|a, b| by_value(a, b, points));
        let highest = (0..points.len()).max_by(|a, b| by_value(a, b, points));
        let mut kept = [Some(0), lowest, highest, points.len().checked_sub(1)];
        kept.sort_unstable();
        let mut kept: Vec<_> = kept.into_iter().flatten().collect();
        kept.dedup();
        kept.into_iter().map(|index| points[index]).collect::<Vec<_>>()
    };
    columns.flat_map(of_column).collect()
}

/// A number at an axis: as few digits as say it, so that 2.4000000000000004 is 2.4.
fn tick(value: f64) -> String {
    match value.abs() {
        0.0 => "0".into(),
        size if (1e-3..1e6).contains(&size) => plain(value, 6),
        size if size < 1e-15 => "0".into(),
        _ => {
            let text = format!("{value:.3e}");
            let (digits, exponent) = text.split_once('e').unwrap_or((&text, "0"));
            format!("{}e{exponent}", trimmed(digits))
        }
    }
}

/// A number in a legend, in four digits or so.
fn short(value: f64) -> String {
    match value.abs() {
        size if size >= 1e6 || (size > 0.0 && size < 1e-3) => format!("{value:.2e}"),
        size if size >= 1000.0 => format!("{value:.0}"),
        _ => format!("{value:.3}"),
    }
}

fn plain(value: f64, digits: i32) -> String {
    let before = value.abs().log10().floor() as i32 + 1;
    let decimals = (digits - before).max(0) as usize;
    trimmed(&format!("{value:.decimals$}")).to_owned()
}

/// Without the zeros that end a fraction.
fn trimmed(number: &str) -> &str {
    if number.contains('.') { number.trim_end_matches('0').trim_end_matches('.') } else { number }
}

fn encode(pixels: &[u8]) -> Result<Vec<u8>, png::EncodingError> {
    let mut content = Vec::new();
    let mut encoder = png::Encoder::new(&mut content, PNG_SIZE.0, PNG_SIZE.1);
    encoder.set_color(png::ColorType::Rgb);
    encoder.set_depth(png::BitDepth::Eight);
    // Areas of one colour get no smaller by a filter, only slower.
    encoder.set_filter(png::Filter::NoFilter);
    let mut writer = encoder.write_header()?;
    writer.write_image_data(pixels)?;
    writer.finish()?;
    Ok(content)
}

/// How many pixels [`average_blocks`] looks at together.
const TILE: usize = 40;

/// Shrinks RGB pixels by 2, which is [`SUPERSAMPLING`], in both directions.
fn average_blocks(pixels: &[u8]) -> Vec<u8> {
    let width = PNG_SIZE.0 as usize;
    let mut small = vec![WHITE.0; width * PNG_SIZE.1 as usize * 3];
    let (row, blank) = (width * 6, [WHITE.0; TILE * 6]);
    for (small, rows) in small.chunks_exact_mut(width * 3).zip(pixels.chunks_exact(row * 2)) {
        let (upper, lower) = rows.split_at(row);
        let tiles = upper.chunks(TILE * 6).zip(lower.chunks(TILE * 6));
        for (small, (upper, lower)) in small.chunks_mut(TILE * 3).zip(tiles) {
            // Most of a chart is white.
            if upper == blank && lower == blank {
                continue;
            }
            for (index, value) in small.iter_mut().enumerate() {
                let at = index + index / 3 * 3;
                let [a, b, c, d] =
                    [upper[at], upper[at + 3], lower[at], lower[at + 3]].map(u16::from);
                *value = ((a + b + c + d) / 4) as u8;
            }
        }
    }
    small
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chart() -> Chart {
        let training = (1..=200_i32).map(|i| {
            let (step, noise) = (f64::from(i * 10), f64::from((i * 7919) % 97) / 97.0 - 0.5);
            (step, 1.9 + 3.6 * (-step / 220.0).exp() + 0.12 * noise)
        });
        let held_out = (1..=10_i32).map(|i| {
            let step = f64::from(i * 200);
            (step, 2.0 + 3.6 * (-step / 220.0).exp())
        });
        Chart::new("transformer")
            .axes("step", "loss (nats)")
            .line("training", training)
            .dotted_line("held out", held_out)
            .reference("bigram entropy", 2.41)
    }

    #[test]
    fn a_png_has_both_lines_and_the_reference_in_their_colours() -> Result<()> {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("loss.png");
        chart().save(&path)?;
        let file = std::io::BufReader::new(std::fs::File::open(path).expect("written"));
        let mut reader = png::Decoder::new(file).read_info().expect("a PNG");
        let mut pixels = vec![0; reader.output_buffer_size().expect("small")];
        let info = reader.next_frame(&mut pixels).expect("whole");
        assert_eq!((info.width, info.height), PNG_SIZE);
        for color in [LINES[0], LINES[1], REFERENCE] {
            let drawn = pixels.chunks(3).filter(|pixel| *pixel == [color.0, color.1, color.2]);
            assert!(drawn.count() > 500, "{color:?}");
        }
        Ok(())
    }

    #[test]
    fn an_svg_has_its_words() -> Result<()> {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("loss.SVG");
        chart().save(&path)?;
        let text = std::fs::read_to_string(path).expect("written");
        for words in [
            "width=\"960\" height=\"600\" viewBox=\"0 0 4800 3000\"",
            "transformer",
            "step",
            "loss (nats)",
            "training",
            "held out, last: 2.000",
            "bigram entropy: 2.410",
        ] {
            assert!(text.contains(words), "{words}");
        }
        Ok(())
    }

    #[test]
    fn the_legend_hides_no_point() -> Result<()> {
        let positions = |chart: &Chart| -> Result<_> {
            let (xs, ys) = chart.ranges()?;
            Ok(chart.room_for_legend(&xs, ys))
        };
        let (corner, _) = positions(&chart())?;
        assert!(matches!(corner, SeriesLabelPosition::UpperRight), "a loss falls");
        let rising = Chart::new("").line("a", [(0.0, 0.0), (1.0, 1.0)]);
        assert!(matches!(positions(&rising)?.0, SeriesLabelPosition::UpperLeft));
        let everywhere = rising.line("b", [(0.0, 1.0), (1.0, 0.0)]);
        let (corner, ys) = positions(&everywhere)?;
        assert!(matches!(corner, SeriesLabelPosition::UpperRight));
        assert!((ys.end - 1.06) / (ys.end - ys.start) > 0.25, "{ys:?}");
        Ok(())
    }

    #[test]
    fn words_from_outside_are_escaped_in_an_svg() -> Result<()> {
        let hostile = "</text><script>alert(1)</script>";
        let chart =
            Chart::new(hostile).axes(hostile, hostile).line(hostile, [(0.0, 0.0), (1.0, 1.0)]);
        assert!(!chart.reference(hostile, 0.5).svg()?.contains("<script"));
        Ok(())
    }

    #[test]
    fn a_chart_that_cannot_be_drawn_leaves_no_file() {
        let folder = tempfile::tempdir().expect("a folder");
        let refused = chart().save(folder.path().join("loss.jpg")).expect_err("no format");
        assert!(refused.to_string().contains("loss.jpg`: its name ends in neither"), "{refused}");
        for empty in [Chart::new(""), Chart::new("").line("one point", [(1.0, 1.0)])] {
            assert!(!empty.has_line());
            let refused = empty.save(folder.path().join("loss.png")).expect_err("empty");
            assert!(refused.to_string().contains("no two points"), "{refused}");
        }
        assert_eq!(std::fs::read_dir(folder.path()).expect("the folder").count(), 0);
    }

    #[test]
    fn a_long_line_is_thinned_and_keeps_its_ends_and_peaks() {
        let mut points: Vec<_> = (0..100_000).map(|i| (f64::from(i), 1.0)).collect();
        points[54_321].1 = 9.0;
        points[54_322].1 = -9.0;
        let kept = thinned(points.clone());
        assert!(kept.len() <= 4 * (COLUMNS + 1), "{}", kept.len());
        for index in [0, 54_321, 54_322, 99_999] {
            assert!(kept.contains(&points[index]), "{index}");
        }
        assert!(kept.is_sorted_by(|a, b| a.0 < b.0));
        let few = &points[..1000];
        assert_eq!(thinned(few.to_vec()), few);
    }

    #[test]
    fn numbers_have_as_few_digits_as_say_them() {
        let shown =
            [0.0, 2.400_000_000_000_000_4, -1.5, 120_000.0, 2.5e-4, 3e-4, 2e9, 1e-18].map(tick);
        assert_eq!(shown, ["0", "2.4", "-1.5", "120000", "2.5e-4", "3e-4", "2e9", "0"]);
    }
}
