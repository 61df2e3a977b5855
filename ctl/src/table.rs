//! Rows in columns, or as JSON.

use serde_json::{Map, Value};

use crate::Output;

/// Rows with named columns.
#[derive(Debug, Default)]
pub(crate) struct Table {
    columns: Vec<&'static str>,
    rows: Vec<Vec<String>>,
}

impl Table {
    pub(crate) fn new(columns: &[&'static str]) -> Self {
        Self { columns: columns.to_vec(), rows: Vec::new() }
    }

    /// Adds a row, which has a cell for each column.
    pub(crate) fn push<const N: usize>(&mut self, cells: [String; N]) {
        self.rows.push(cells.into());
    }

    pub(crate) fn text(&self, output: Output) -> String {
        match output {
            Output::Table => self.columns_text(),
            Output::Json => self.json(),
        }
    }

    fn columns_text(&self) -> String {
        let header: Vec<String> = self.columns.iter().map(|name| name.to_uppercase()).collect();
        let lines: Vec<&Vec<String>> = std::iter::once(&header).chain(&self.rows).collect();
        let width = |column: usize| lines.iter().map(|line| line[column].chars().count()).max().unwrap_or(0);
        let widths: Vec<usize> = (0..self.columns.len()).map(width).collect();
        let mut text = String::new();
        for line in lines {
            let cells = line.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}"));
            text += cells.collect::<Vec<_>>().join("  ").trim_end();
            text.push('\n');
        }
        text
    }

    fn json(&self) -> String {
        format!("{:#}\n", self.value())
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

/// Several tables, each below its name; as JSON, one object with their names.
pub(crate) fn sections(sections: &[(&'static str, Table)], output: Output) -> String {
    match output {
        Output::Table => {
            let text =
                |(name, table): &(&str, Table)| format!("{}\n{}", name.to_uppercase(), table.columns_text());
            sections.iter().map(text).collect::<Vec<_>>().join("\n")
        }
        Output::Json => {
            let all: Map<String, Value> =
                sections.iter().map(|(name, table)| ((*name).to_owned(), table.value())).collect();
            format!("{:#}\n", Value::Object(all))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Table;
    use crate::Output;

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
