//! Rows in columns, or for a program.

use serde_json::{Map, Value};

use crate::output::Output;

/// Rows with named columns.
#[derive(Debug, Default)]
pub(crate) struct Table {
    columns: Vec<&'static str>,
    /// How many of them, the last ones, a person sees only who asks for more.
    wide: usize,
    rows: Vec<Vec<String>>,
}

impl Table {
    pub(crate) fn new(columns: &[&'static str]) -> Self {
        Self { columns: columns.to_vec(), ..Self::default() }
    }

    /// A table whose last columns are only for who wants more, or is a program.
    pub(crate) fn with_wide(columns: &[&'static str], wide: &[&'static str]) -> Self {
        Self { columns: [columns, wide].concat(), wide: wide.len(), rows: Vec::new() }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Adds a row, which has a cell for each column.
    pub(crate) fn push<const N: usize>(&mut self, cells: [String; N]) {
        self.rows.push(cells.into());
    }

    pub(crate) fn text(&self, output: Output) -> String {
        output.structured(&self.value()).unwrap_or_else(|| self.columns_text(output))
    }

    fn columns_text(&self, output: Output) -> String {
        let shown = self.columns.len() - if output == Output::Wide { 0 } else { self.wide };
        let header: Vec<String> = self.columns.iter().map(|name| name.to_uppercase()).collect();
        let lines: Vec<&Vec<String>> = std::iter::once(&header).chain(&self.rows).collect();
        let width = |column: usize| lines.iter().map(|line| line[column].chars().count()).max().unwrap_or(0);
        let widths: Vec<usize> = (0..shown).map(width).collect();
        let mut text = String::new();
        for line in lines {
            let cells = line.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}"));
            text += cells.collect::<Vec<_>>().join("  ").trim_end();
            text.push('\n');
        }
        text
    }

    fn value(&self) -> Value {
        let object = |row: &Vec<String>| {
            let pairs = self
                .columns
                .iter()
                .zip(row)
                .map(|(name, cell)| ((*name).to_owned(), Value::from(cell.clone())));
            Value::Object(pairs.collect::<Map<_, _>>())
        };
        self.rows.iter().map(object).collect()
    }
}

/// Several tables, each below its name; for a program, one object with their names.
pub(crate) fn sections(sections: &[(&'static str, Table)], output: Output) -> String {
    let all: Map<String, Value> =
        sections.iter().map(|(name, table)| ((*name).to_owned(), table.value())).collect();
    output.structured(&Value::Object(all)).unwrap_or_else(|| {
        let text = |(name, table): &(&str, Table)| {
            format!("{}\n{}", name.to_uppercase(), table.columns_text(output))
        };
        sections.iter().map(text).collect::<Vec<_>>().join("\n")
    })
}

#[cfg(test)]
mod tests {
    use super::Table;
    use crate::output::Output;

    #[test]
    fn some_columns_are_only_for_who_wants_more() {
        let mut table = Table::with_wide(&["node"], &["image"]);
        table.push(["n1".into(), "margay:dev".into()]);
        assert_eq!(table.text(Output::Table), "NODE\nn1\n");
        assert_eq!(table.text(Output::Wide), "NODE  IMAGE\nn1    margay:dev\n");
        assert_eq!(table.text(Output::Yaml), "- image: margay:dev\n  node: n1\n");
    }

    #[test]
    fn columns_line_up_and_json_has_the_names() {
        let mut table = Table::new(&["address", "pod"]);
        table.push(["192.0.2.100".into(), "a".into()]);
        table.push(["::1".into(), String::new()]);
        assert_eq!(table.text(Output::Table), "ADDRESS      POD\n192.0.2.100  a\n::1\n");
        let json: serde_json::Value = serde_json::from_str(&table.text(Output::Json)).unwrap();
        assert_eq!(json[0]["pod"], "a");
    }
}
