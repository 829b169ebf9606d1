//! Checks pages written in Markdown: links, the book's table of contents, and quoted code.

use crate::error::{Error, Result};
use std::collections::BTreeSet;
use std::path::{Component, Path, PathBuf};

/// Pages outside the book that link into the repository.
const TOP_PAGES: [&str; 3] = ["README.md", "CONTRIBUTING.md", "CHANGELOG.md"];

/// Checks every page and returns how many there are.
///
/// # Errors
/// [`Error::Problems`] with every finding, each with its page and line.
pub fn check(root: &Path) -> Result<usize> {
    let mut pages: Vec<PathBuf> =
        TOP_PAGES.iter().map(|name| root.join(name)).filter(|page| page.is_file()).collect();
    let mut problems = Vec::new();
    let book = root.join("docs/src");
    if book.join("SUMMARY.md").is_file() {
        let chapters = markdown_below(&book)?;
        problems.extend(unlisted(&book, &chapters)?);
        pages.extend(chapters);
    }
    for page in &pages {
        let text = std::fs::read_to_string(page).map_err(Error::io("read", page))?;
        let name = page.strip_prefix(root).unwrap_or(page).display().to_string();
        for (line, problem) in problems_of(page, &text) {
            problems.push(format!("{name}:{line}: {problem}"));
        }
    }
    if problems.is_empty() {
        return Ok(pages.len());
    }
    Err(Error::Problems { summary: "the documentation leads nowhere here".to_owned(), problems })
}

fn markdown_below(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut pages = Vec::new();
    for entry in folder.read_dir().map_err(Error::io("list", folder))? {
        let path = entry.map_err(Error::io("list", folder))?.path();
        if path.is_dir() {
            pages.extend(markdown_below(&path)?);
        } else if path.extension().is_some_and(|extension| extension == "md") {
            pages.push(path);
        }
    }
    pages.sort();
    Ok(pages)
}

/// Chapters that the table of contents forgot: mdBook leaves them out without a word.
fn unlisted(book: &Path, chapters: &[PathBuf]) -> Result<Vec<String>> {
    let summary = book.join("SUMMARY.md");
    let text = std::fs::read_to_string(&summary).map_err(Error::io("read", &summary))?;
    let listed: BTreeSet<PathBuf> =
        links(&text).map(|(_, link)| normal(&book.join(without_anchor(link).0))).collect();
    let forgotten = chapters.iter().filter(|page| **page != summary && !listed.contains(*page));
    Ok(forgotten.map(|page| format!("{} is not in docs/src/SUMMARY.md", page.display())).collect())
}

/// Every line number and what is wrong there.
fn problems_of(page: &Path, text: &str) -> Vec<(usize, String)> {
    let broken_links = links(text).filter_map(|(line, link)| {
        problem_of_link(page, text, link).map(|problem| (line, problem))
    });
    let broken_quotes = quotes(text)
        .filter_map(|(line, quote)| problem_of_quote(page, quote).map(|problem| (line, problem)));
    let mut problems: Vec<_> = broken_links.chain(broken_quotes).collect();
    problems.sort();
    problems
}

fn problem_of_link(page: &Path, text: &str, link: &str) -> Option<String> {
    let (file, anchor) = without_anchor(link);
    let target = page.with_file_name("").join(file);
    if !file.is_empty() && !target.exists() {
        return Some(format!("`{link}` leads to no file"));
    }
    let anchor = anchor?;
    let own_page = file.is_empty();
    if !own_page && target.extension().is_none_or(|extension| extension != "md") {
        return None;
    }
    let linked = if own_page {
        text.to_owned()
    } else {
        std::fs::read_to_string(&target).unwrap_or_default()
    };
    let known = headings(&linked).any(|heading| heading == anchor);
    (!known).then(|| format!("`{link}` leads to no heading"))
}

/// `file:anchor`, `file:first:last` or `file`, as mdBook's `{{#include …}}` takes it.
fn problem_of_quote(page: &Path, quote: &str) -> Option<String> {
    let mut parts = quote.split(':');
    let file = parts.next().unwrap_or_default().trim();
    let target = page.with_file_name("").join(file);
    let Ok(text) = std::fs::read_to_string(&target) else {
        return Some(format!("quotes `{file}`, which cannot be read"));
    };
    let num_lines = text.lines().count();
    for part in parts.map(str::trim).filter(|part| !part.is_empty()) {
        let line = part.parse::<usize>().ok();
        let found = line.map_or_else(
            || anchors(&text).any(|anchor| anchor == part),
            |line| (1..=num_lines).contains(&line),
        );
        if !found {
            return Some(format!("quotes `{part}` of `{file}`, which is not there"));
        }
    }
    None
}

/// The parts of a source file that pages may quote: `// ANCHOR: name`.
fn anchors(source: &str) -> impl Iterator<Item = &str> {
    source.lines().filter_map(|line| line.split_once("ANCHOR: ").map(|(_, name)| name.trim()))
}

/// Links to this repository with their lines: `[text](target)` outside of code.
fn links(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let elsewhere = |link: &str| link.contains("://") || link.starts_with("mailto:");
    prose(text)
        .flat_map(|(number, line)| {
            let pieces = line.split('`').step_by(2).flat_map(|piece| piece.split("](").skip(1));
            pieces.filter_map(move |rest| rest.split_once(')').map(|(link, _)| (number, link)))
        })
        .map(|(number, link)| (number, link.split_whitespace().next().unwrap_or_default()))
        .filter(move |(_, link)| !elsewhere(link))
}

/// What `{{#include …}}` and its relatives name, in code blocks as well.
fn quotes(text: &str) -> impl Iterator<Item = (usize, &str)> {
    text.lines().enumerate().flat_map(|(index, line)| {
        let openings = ["{{#include ", "{{#rustdoc_include ", "{{#playground "];
        openings.into_iter().filter_map(move |opening| {
            let (_, rest) = line.split_once(opening)?;
            Some((index + 1, rest.split_once("}}")?.0))
        })
    })
}

/// The anchors of a page's headings, as GitHub and mdBook make them.
fn headings(text: &str) -> impl Iterator<Item = String> {
    let titles = prose(text).filter_map(|(_, line)| {
        let title = line.trim_start_matches('#');
        (title.len() < line.len()).then(|| title.trim())
    });
    titles.map(|title| {
        let kept = title.chars().filter(|c| c.is_alphanumeric() || " -_".contains(*c));
        kept.map(|c| if c == ' ' { '-' } else { c }).flat_map(char::to_lowercase).collect()
    })
}

/// Lines, numbered from one, without fenced code.
fn prose(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let mut fenced = false;
    text.lines().enumerate().filter_map(move |(index, line)| {
        let fence = line.trim_start().starts_with("```");
        fenced ^= fence;
        (!fenced && !fence).then_some((index + 1, line))
    })
}

fn without_anchor(link: &str) -> (&str, Option<&str>) {
    link.split_once('#').map_or((link, None), |(file, anchor)| (file, Some(anchor)))
}

/// `a/./b/../c` as `a/c`, so that two ways to one file compare equal.
fn normal(path: &Path) -> PathBuf {
    let mut normal = PathBuf::new();
    for component in path.components() {
        match component {
            Component::CurDir => {}
            Component::ParentDir => drop(normal.pop()),
            other => normal.push(other),
        }
    }
    normal
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A repository with these files.
    fn repository(files: &[(&str, &str)]) -> tempfile::TempDir {
        let root = tempfile::tempdir().expect("a folder");
        for (name, text) in files {
            let path = root.path().join(name);
            std::fs::create_dir_all(path.parent().expect("a folder")).expect("made");
            std::fs::write(path, text).expect("written");
        }
        root
    }

    fn findings(files: &[(&str, &str)]) -> Vec<String> {
        match check(repository(files).path()) {
            Ok(_) => Vec::new(),
            Err(Error::Problems { problems, .. }) => problems,
            Err(other) => panic!("{other}"),
        }
    }

    #[test]
    fn a_sound_book_passes_and_its_pages_are_counted() {
        let root = repository(&[
            ("README.md", "See [the guide](docs/src/guide.md#first-steps) and [x](https://x.y/z)."),
            ("docs/src/SUMMARY.md", "- [Guide](./guide.md)\n"),
            (
                "docs/src/guide.md",
                "# First steps!\n```rust\n{{#include ../../a.rs:part}}\n```\n[up](#first-steps)",
            ),
            ("a.rs", "// ANCHOR: part\nfn main() {}\n// ANCHOR_END: part\n"),
        ]);
        assert_eq!(check(root.path()).expect("sound"), 3);
    }

    #[test]
    fn dead_links_are_found_with_their_line() {
        let found = findings(&[("README.md", "fine\n[a](gone.md) [b](#nowhere)\n")]);
        assert_eq!(
            found,
            [
                "README.md:2: `#nowhere` leads to no heading",
                "README.md:2: `gone.md` leads to no file"
            ]
        );
    }

    #[test]
    fn links_inside_code_are_not_links() {
        let text = "`[a](gone.md)`\n```text\n[b](gone.md)\n```\n";
        assert!(findings(&[("README.md", text)]).is_empty());
    }

    #[test]
    fn quotations_of_missing_code_are_found() {
        let text = "{{#include a.rs:gone}}\n{{#include a.rs:1:9}}\n{{#include b.rs}}\n";
        let found = findings(&[("README.md", text), ("a.rs", "// ANCHOR: gone_not\n")]);
        assert_eq!(found.len(), 3, "{found:?}");
    }

    #[test]
    fn chapters_that_the_table_of_contents_forgot_are_found() {
        let found = findings(&[("docs/src/SUMMARY.md", "# Book\n"), ("docs/src/lost.md", "")]);
        assert_eq!(found.len(), 1);
        assert!(found[0].ends_with("lost.md is not in docs/src/SUMMARY.md"), "{found:?}");
    }
}
