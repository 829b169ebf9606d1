//! The few pieces of HTML that the page is made of. Every text from outside is escaped here.

/// A piece of HTML that is safe to put into a page.
#[derive(Debug, Clone, Default)]
pub(super) struct Html(String);

impl Html {
    /// HTML of our own.
    pub(super) fn raw(html: impl Into<String>) -> Self {
        Self(html.into())
    }

    /// Any text, shown as it is.
    pub(super) fn text(text: &str) -> Self {
        let mut html = String::with_capacity(text.len());
        for c in text.chars() {
            match c {
                '&' => html.push_str("&amp;"),
                '<' => html.push_str("&lt;"),
                '>' => html.push_str("&gt;"),
                '"' => html.push_str("&quot;"),
                '\'' => html.push_str("&#39;"),
                // HTML has no way to write these.
                c if c.is_control() && !"\n\t".contains(c) => html.push('\u{fffd}'),
                c => html.push(c),
            }
        }
        Self(html)
    }

    /// `<tag>content</tag>`; `tag` may have attributes.
    pub(super) fn element(tag: &str, content: impl IntoIterator<Item = Self>) -> Self {
        let name = tag.split(' ').next().unwrap_or_default();
        let content: String = content.into_iter().map(|html| html.0).collect();
        Self(format!("<{tag}>{content}</{name}>\n"))
    }

    /// A section with a heading, or nothing where there is no content.
    pub(super) fn section(heading: &str, content: Vec<Self>) -> Self {
        if content.iter().all(|html| html.0.is_empty()) {
            return Self::default();
        }
        let heading = Self::element("h2", [Self::text(heading)]);
        Self::element("section", [heading].into_iter().chain(content))
    }

    /// A table; `classes` are those of its columns, and a heading that is empty takes no row.
    pub(super) fn table(headings: &[&str], classes: &[&str], rows: Vec<Vec<Self>>) -> Self {
        if rows.is_empty() {
            return Self::default();
        }
        let row = |tag: &str, cells: Vec<Self>| {
            let cells = cells.into_iter().zip(classes);
            let cells = cells.map(|(cell, class)| match *class {
                "" => Self::element(tag, [cell]),
                class => Self::element(&format!("{tag} class=\"{class}\""), [cell]),
            });
            Self::element("tr", cells)
        };
        let head = match headings {
            [] => Self::default(),
            headings => {
                let cells = headings.iter().map(|heading| Self::text(heading)).collect();
                Self::element("thead", [row("th", cells)])
            }
        };
        let body = Self::element("tbody", rows.into_iter().map(|cells| row("td", cells)));
        // A table that is wider than a phone scrolls by itself.
        Self::element("div class=\"table\"", [Self::element("table", [head, body])])
    }

    pub(super) fn into_string(self) -> String {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::Html;

    #[test]
    fn text_from_outside_stays_text() {
        let html = Html::text("<script>\"a\" & 'b'</script>\u{0}").into_string();
        assert_eq!(html, "&lt;script&gt;&quot;a&quot; &amp; &#39;b&#39;&lt;/script&gt;\u{fffd}");
    }

    #[test]
    fn an_empty_section_is_not_there() {
        assert_eq!(Html::section("Events", vec![Html::default()]).into_string(), "");
        assert_eq!(Html::table(&["a"], &[""], vec![]).into_string(), "");
    }
}
