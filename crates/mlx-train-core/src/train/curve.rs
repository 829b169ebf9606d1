//! Loss curves as PNG and SVG.

use super::{History, TrainError};
use crate::{Result, file::write_whole};
use plotters::{
    coord::Shift,
    element::DashedPathElement,
    prelude::*,
    style::{FontStyle, register_font},
};
use std::{error::Error as StdError, ffi::OsStr, ops::Range, path::Path};

/// A picture of the training and held-out loss over the steps.
///
/// ```no_run
/// # use mlx_train_core::train::{Curve, History};
/// # let history = History::default();
/// let curve = Curve::new(&history).title("transformer").reference("bigram entropy", 2.41);
/// curve.save("loss.png")?;
/// curve.save("loss.svg")?;
/// # Ok::<(), mlx_train_core::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct Curve<'a> {
    history: &'a History,
    title: String,
    loss_unit: String,
    references: Vec<(String, f64)>,
}

type DrawResult = Result<(), Box<dyn StdError>>;

const WIDTH: u32 = 1200;
const HEIGHT: u32 = 720;
/// How many times larger a PNG is drawn than it ends.
const SUPERSAMPLING: u32 = 2;
const FONT: &str = "sans-serif";
/// Blue, vermilion and bluish green are told apart in every common colour blindness.
/// Source: Okabe and Ito, "Color Universal Design", <https://jfly.uni-koeln.de/color/>.
const TRAINING: RGBColor = RGBColor(0, 114, 178);
const HELD_OUT: RGBColor = RGBColor(213, 94, 0);
const REFERENCE: RGBColor = RGBColor(0, 125, 95);
const INK: RGBColor = RGBColor(40, 40, 40);
const GRID: RGBColor = RGBColor(225, 225, 225);

impl<'a> Curve<'a> {
    /// A picture with the title `Loss`.
    pub fn new(history: &'a History) -> Self {
        Self { history, title: "Loss".into(), loss_unit: "nats".into(), references: Vec::new() }
    }

    /// Sets the title.
    #[must_use]
    pub fn title(self, title: impl Into<String>) -> Self {
        Self { title: title.into(), ..self }
    }

    /// Sets the unit of the loss, which is nats (of cross-entropy) unless set.
    #[must_use]
    pub fn loss_unit(self, loss_unit: impl Into<String>) -> Self {
        Self { loss_unit: loss_unit.into(), ..self }
    }

    /// Adds a horizontal line at a loss to compare with; the legend has its value. One that is not finite is left out.
    #[must_use]
    pub fn reference(mut self, label: impl Into<String>, loss: f64) -> Self {
        self.references.push((label.into(), loss));
        self
    }

    /// Writes the picture, whole or not at all, in the format of the ending `.png` or `.svg`.
    ///
    /// # Errors
    /// [`TrainError::Curve`] for any other ending, or when there are no two points to draw a line through;
    /// [`FileError`](crate::file::FileError) when the file cannot be written.
    pub fn save(&self, path: impl AsRef<Path>) -> Result<()> {
        let path = path.as_ref();
        let failed = |problem: String| TrainError::Curve { path: path.to_owned(), problem };
        let extension = path.extension().map(OsStr::to_ascii_lowercase);
        let content = match extension.as_ref().and_then(|extension| extension.to_str()) {
            Some("png") => self.png(),
            Some("svg") => self.svg(),
            _ => Err("its name ends in neither .png nor .svg: name one of these formats".into()),
        };
        let content = content.map_err(|error| failed(error.to_string()))?;
        Ok(write_whole(path, content)?)
    }

    fn svg(&self) -> Result<Vec<u8>, Box<dyn StdError>> {
        let mut text = String::new();
        self.draw(&SVGBackend::with_string(&mut text, (WIDTH, HEIGHT)).into_drawing_area(), 1)?;
        Ok(text.into_bytes())
    }

    fn png(&self) -> Result<Vec<u8>, Box<dyn StdError>> {
        // Thick lines come without smooth edges, so the picture is drawn larger and averaged.
        let size = (WIDTH * SUPERSAMPLING, HEIGHT * SUPERSAMPLING);
        let mut pixels = vec![0; size.0 as usize * size.1 as usize * 3];
        let area = BitMapBackend::with_buffer(&mut pixels, size).into_drawing_area();
        self.draw(&area, SUPERSAMPLING)?;
        drop(area);
        let mut content = Vec::new();
        let mut encoder = png::Encoder::new(&mut content, WIDTH, HEIGHT);
        encoder.set_color(png::ColorType::Rgb);
        encoder.set_depth(png::BitDepth::Eight);
        let mut writer = encoder.write_header()?;
        writer.write_image_data(&average_blocks(&pixels))?;
        writer.finish()?;
        Ok(content)
    }

    /// Draws into an area that is `scale` times as large as [`WIDTH`] and [`HEIGHT`].
    fn draw<B: DrawingBackend>(&self, area: &DrawingArea<B, Shift>, scale: u32) -> DrawResult
    where
        B::ErrorType: 'static,
    {
        // Text is drawn with the font inside of the library: no machine needs one installed.
        let font = epaint_default_fonts::UBUNTU_LIGHT;
        register_font(FONT, FontStyle::Normal, font).map_err(|_| "the built-in font is damaged")?;
        let text = |size: u32| (FONT, size * scale).into_font().color(&INK);
        let legend_line = |y: i32| [(0, y), (32 * scale as i32, y)];
        let shifted = move |(x, y): (i32, i32)| legend_line(y - 2).map(|(dx, y)| (x + dx, y));

        let history = self.history;
        let training = history.training.iter().map(|point| (point.step, point.loss));
        let held_out = history.held_out.iter().map(|point| (point.step, point.evaluation.loss));
        let training =
            Line { name: "training", color: TRAINING, dots: 0, points: finite(training) };
        let held_out =
            Line { name: "held out", color: HELD_OUT, dots: 4, points: finite(held_out) };
        let (steps, losses) = self.ranges(training.points.iter().chain(&held_out.points))?;

        area.fill(&WHITE)?;
        let mut chart = ChartBuilder::on(area)
            .margin(24 * scale)
            .margin_right(36 * scale)
            .caption(&self.title, text(30))
            .x_label_area_size(60 * scale)
            .y_label_area_size(84 * scale)
            .build_cartesian_2d(steps.clone(), losses)?;
        chart
            .configure_mesh()
            .x_desc("step")
            .y_desc(format!("loss ({})", self.loss_unit))
            .axis_desc_style(text(22))
            .label_style(text(19))
            .x_label_formatter(&|step| step.to_string())
            .axis_style(INK.stroke_width(scale))
            .bold_line_style(GRID.stroke_width(scale))
            .light_line_style(TRANSPARENT)
            .set_all_tick_mark_size(5 * scale)
            .x_labels(8)
            .y_labels(8)
            .draw()?;

        for (label, loss) in self.references.iter().filter(|(_, loss)| loss.is_finite()) {
            let style = REFERENCE.stroke_width(2 * scale);
            let (dash, gap) = (9 * scale, 5 * scale);
            let ends = [(steps.start, *loss), (steps.end, *loss)];
            chart
                .draw_series(DashedLineSeries::new(ends, dash, gap, style))?
                .label(format!("{label}: {loss:.3}"))
                .legend(move |at| DashedPathElement::new(shifted(at), dash, gap, style));
        }
        for Line { name, color, dots, points } in [training, held_out] {
            let Some(&(_, last)) = points.last() else {
                continue;
            };
            let style = color.stroke_width(2 * scale);
            // A single point has no line, so it needs its dot.
            let dots = if points.len() == 1 { 4 } else { dots } * scale;
            let dot = |&point: &(f64, f64)| Circle::new(point, dots, color.filled());
            chart.draw_series(points.iter().filter(|_| dots > 0).map(dot))?;
            chart
                .draw_series(LineSeries::new(points, style))?
                .label(format!("{name}, last: {last:.3}"))
                .legend(move |at| PathElement::new(shifted(at), style));
        }
        chart
            .configure_series_labels()
            // A loss falls, so the upper right is where no line is.
            .position(SeriesLabelPosition::UpperRight)
            .margin(14 * scale)
            .legend_area_size(46 * scale)
            .label_font(text(20))
            .background_style(WHITE.mix(0.9))
            .border_style(GRID.stroke_width(scale))
            .draw()?;
        area.present()?;
        Ok(())
    }

    /// The steps and the losses that the picture shows.
    fn ranges<'p>(
        &self,
        points: impl Iterator<Item = &'p (f64, f64)> + Clone,
    ) -> Result<(Range<f64>, Range<f64>), &'static str> {
        let (steps, losses) = (points.clone().map(|point| point.0), points.map(|point| point.1));
        let (first, last) =
            (steps.clone().fold(f64::INFINITY, f64::min), steps.fold(0.0, f64::max));
        if first >= last {
            return Err("there are no two points to draw a line through: report more often");
        }
        let losses = losses.chain(
            self.references.iter().map(|reference| reference.1).filter(|loss| loss.is_finite()),
        );
        let low = losses.clone().fold(f64::INFINITY, f64::min);
        let high = losses.fold(f64::NEG_INFINITY, f64::max);
        // Air above and below; a flat line has some too.
        let margin = ((high - low) * 0.06).max(high.abs() * 1e-3).max(1e-6);
        let bottom = if low >= 0.0 { (low - margin).max(0.0) } else { low - margin };
        Ok((0.0..last, bottom..high + margin))
    }
}

/// A line of the picture; `dots` is the radius of its points.
struct Line {
    name: &'static str,
    color: RGBColor,
    dots: u32,
    points: Vec<(f64, f64)>,
}

/// Shrinks RGB pixels by [`SUPERSAMPLING`] in both directions.
fn average_blocks(pixels: &[u8]) -> Vec<u8> {
    let (factor, width) = (SUPERSAMPLING as usize, WIDTH as usize);
    let mut sums = vec![0_u32; width * HEIGHT as usize * 3];
    for (y, row) in pixels.chunks_exact(width * factor * 3).enumerate() {
        for (x, pixel) in row.chunks_exact(3).enumerate() {
            let start = (y / factor * width + x / factor) * 3;
            for (sum, &value) in sums[start..start + 3].iter_mut().zip(pixel) {
                *sum += u32::from(value);
            }
        }
    }
    sums.into_iter().map(|sum| (sum / (SUPERSAMPLING * SUPERSAMPLING)) as u8).collect()
}

/// The points that can be drawn, as steps and losses.
fn finite(points: impl Iterator<Item = (u64, f64)>) -> Vec<(f64, f64)> {
    points.filter(|(_, loss)| loss.is_finite()).map(|(step, loss)| (step as f64, loss)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::train::{Evaluation, HeldOutPoint, TrainingPoint};

    fn history() -> History {
        let training = (1..=200).map(|i| {
            let step = i * 10;
            let noise = ((i * 7919) % 97) as f64 / 97.0 - 0.5;
            let loss = 1.9 + 3.6 * (-(step as f64) / 220.0).exp() + 0.12 * noise;
            TrainingPoint {
                step,
                loss,
                learning_rate: 1e-3,
                grad_norm: 1.0,
                tokens_per_second: 1e4,
            }
        });
        let held_out = (1..=10).map(|i| {
            let step = i * 200;
            let loss = 2.0 + 3.6 * (-(step as f64) / 220.0).exp();
            let evaluation = Evaluation { loss, num_targets: 1e4, metrics: vec![] };
            HeldOutPoint { step, evaluation }
        });
        History { training: training.collect(), held_out: held_out.collect() }
    }

    #[test]
    fn a_png_has_both_lines_and_the_reference_in_their_colours() -> Result<()> {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("loss.png");
        let history = history();
        Curve::new(&history).reference("bigram entropy", 2.41).save(&path)?;
        let file = std::io::BufReader::new(std::fs::File::open(path).expect("written"));
        let mut reader = png::Decoder::new(file).read_info().expect("a PNG");
        let mut pixels = vec![0; reader.output_buffer_size().expect("small")];
        let info = reader.next_frame(&mut pixels).expect("whole");
        assert_eq!((info.width, info.height), (WIDTH, HEIGHT));
        for color in [TRAINING, HELD_OUT, REFERENCE] {
            let drawn = pixels.chunks(3).filter(|pixel| *pixel == [color.0, color.1, color.2]);
            assert!(drawn.count() > 500, "{color:?}");
        }
        Ok(())
    }

    #[test]
    fn an_svg_has_its_words() -> Result<()> {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("loss.SVG");
        let history = history();
        Curve::new(&history).title("transformer").reference("bigram entropy", 2.41).save(&path)?;
        let text = std::fs::read_to_string(path).expect("written");
        for words in [
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
    fn a_curve_that_cannot_be_drawn_leaves_no_file() {
        let folder = tempfile::tempdir().expect("a folder");
        let history = history();
        let refused =
            Curve::new(&history).save(folder.path().join("loss.jpg")).expect_err("no format");
        assert!(refused.to_string().contains("loss.jpg: its name ends in neither"), "{refused}");
        let refused = Curve::new(&History::default())
            .save(folder.path().join("loss.png"))
            .expect_err("empty");
        assert!(refused.to_string().contains("no two points"), "{refused}");
        assert_eq!(std::fs::read_dir(folder.path()).expect("the folder").count(), 0);
    }
}
