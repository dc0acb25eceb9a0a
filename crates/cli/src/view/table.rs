//! Renders tables with aligned columns, for characters of any width.

use super::paint::{Ink, paint};
use super::text::width;
use crate::settings::Style;

/// A cell: its text and its colour.
#[derive(Clone, Debug, Default)]
pub(crate) struct Cell {
    text: String,
    ink: Option<Ink>,
}

impl Cell {
    /// A cell with a colour.
    pub(crate) fn inked(text: impl Into<String>, ink: Ink) -> Self {
        Self { text: text.into(), ink: Some(ink) }
    }
}

impl<T: Into<String>> From<T> for Cell {
    fn from(text: T) -> Self {
        Self { text: text.into(), ink: None }
    }
}

/// The alignment of a column.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Align {
    /// For words.
    Left,
    /// For numbers.
    Right,
}

/// The heading and the rows. Each ends with a line feed and has no trailing blanks.
pub(crate) fn render(style: Style, columns: &[(&str, Align)], rows: &[Vec<Cell>]) -> String {
    let mut widths: Vec<usize> = columns.iter().map(|(name, _)| width(name)).collect();
    for row in rows {
        for (cell, widest) in row.iter().zip(&mut widths) {
            *widest = (*widest).max(width(&cell.text));
        }
    }
    let heading = columns.iter().map(|(name, _)| Cell::inked(*name, Ink::Dim)).collect();
    let mut out = String::new();
    for row in std::iter::once(&heading).chain(rows) {
        let mut line = String::new();
        let mut blanks = 0;
        for ((cell, widest), (_, align)) in row.iter().zip(&widths).zip(columns) {
            let pad = widest - width(&cell.text);
            if *align == Align::Right {
                blanks += pad;
            }
            // Padding is written only before the next cell.
            if !cell.text.is_empty() {
                line.extend(std::iter::repeat_n(' ', blanks));
                line.push_str(
                    &cell.ink.map_or_else(|| cell.text.clone(), |ink| paint(style, ink, &cell.text)),
                );
                blanks = 0;
            }
            blanks += 2;
            if *align == Align::Left {
                blanks += pad;
            }
        }
        out.push_str(&line);
        out.push('\n');
    }
    out
}

/// As [`render`], in at most this many columns of a terminal: the table's columns with these headings are left out one after
/// the other until it fits. `None` is a width without a bound.
pub(crate) fn render_within(
    style: Style,
    columns: &[(&str, Align)],
    rows: &[Vec<Cell>],
    within: Option<usize>,
    dispensable: &[&str],
) -> String {
    let widest = |index: usize| {
        let cells = rows.iter().filter_map(|row| row.get(index)).map(|cell| width(&cell.text));
        cells.chain([width(columns[index].0)]).max().unwrap_or(0)
    };
    let mut kept: Vec<usize> = (0..columns.len()).collect();
    let mut dispensable = dispensable.iter();
    let taken = |kept: &[usize]| kept.iter().map(|index| widest(*index) + 2).sum::<usize>().saturating_sub(2);
    while within.is_some_and(|within| taken(&kept) > within)
        && let Some(name) = dispensable.next()
    {
        kept.retain(|index| columns[*index].0 != *name);
    }
    let columns: Vec<_> = kept.iter().map(|index| columns[*index]).collect();
    let pick = |row: &Vec<Cell>| kept.iter().filter_map(|index| row.get(*index).cloned()).collect();
    render(style, &columns, &rows.iter().map(pick).collect::<Vec<Vec<Cell>>>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up() {
        let columns = [("ROOM", Align::Left), ("LAST", Align::Right), ("TOPIC", Align::Left)];
        let rows = vec![
            vec!["#general".into(), "1,042".into(), "all of it".into()],
            vec!["#日本".into(), "7".into(), "".into()],
            vec!["#x".into(), "".into(), "empty before".into()],
        ];
        let expected = "\
ROOM       LAST  TOPIC
#general  1,042  all of it
#日本         7
#x               empty before
";
        assert_eq!(render(Style::default(), &columns, &rows), expected);
    }

    #[test]
    fn columns_are_left_out_until_the_table_fits() {
        let columns = [("NAME", Align::Left), ("VERSION", Align::Left), ("LAG", Align::Right)];
        let rows = vec![vec!["node1".into(), "0.1.0".into(), "7".into()], vec!["n2".into(), "gone".into()]];
        let render = |within| render_within(Style::default(), &columns, &rows, within, &["VERSION", "LAG"]);
        assert_eq!(render(None), "NAME   VERSION  LAG\nnode1  0.1.0      7\nn2     gone\n");
        assert_eq!(render(Some(19)), render(None));
        assert_eq!(render(Some(18)), "NAME   LAG\nnode1    7\nn2\n");
        // What names the row stays, however narrow the terminal is.
        assert_eq!(render(Some(2)), "NAME\nnode1\nn2\n");
    }

    #[test]
    fn colours_do_not_count_as_width() {
        let style = Style { color: true, unicode: true };
        let rows = vec![vec![Cell::inked("a", Ink::Bad), "b".into()]];
        let text = render(style, &[("X1", Align::Left), ("Y", Align::Left)], &rows);
        assert!(text.ends_with("\x1b[31ma\x1b[0m   b\n"), "{text:?}");
    }
}
