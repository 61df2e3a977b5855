//! Who reaches whom, as a table.

use crate::party::Party;
use crate::station::{Port, Reach};
use std::fmt;
use std::net::IpAddr;

/// One probe of a matrix.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cell {
    /// What became of it.
    pub reach: Reach,
    /// The addresses that the prober has.
    pub own: Vec<IpAddr>,
}

impl Cell {
    /// Whether it is open and the server saw one of the prober's own addresses.
    pub fn is_open(&self) -> bool {
        matches!(&self.reach, Reach::Open { client } if self.own.contains(client))
    }

    /// Whether it is open, but the server saw the address of another.
    pub fn is_translated(&self) -> bool {
        self.reach.is_open() && !self.is_open()
    }
}

/// Rows probe, columns answer; a diagonal cell is empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Matrix {
    /// What was probed.
    pub port: Port,
    /// Who probed and answered.
    pub parties: Vec<Party>,
    /// By row, then by column.
    pub cells: Vec<Vec<Option<Cell>>>,
}

impl Matrix {
    /// The cells that have been probed: from, to, cell.
    pub fn probes(&self) -> impl Iterator<Item = (&Party, &Party, &Cell)> {
        self.parties.iter().zip(&self.cells).flat_map(|(from, row)| {
            self.parties.iter().zip(row).filter_map(move |(to, cell)| Some((from, to, cell.as_ref()?)))
        })
    }

    /// The number of open cells without translation.
    pub fn open(&self) -> usize {
        self.probes().filter(|(_, _, cell)| cell.is_open()).count()
    }

    /// Those who differ from what they must be.
    pub fn differences(&self, must_be_open: impl Fn(&Party, &Party) -> bool) -> Vec<String> {
        let differs = |(from, to, cell): (&Party, &Party, &Cell)| {
            let expected = must_be_open(from, to);
            let seen = match &cell.reach {
                Reach::Open { client } if cell.is_translated() => format!("open, but seen as {client}"),
                Reach::Open { .. } if expected => return None,
                Reach::Open { .. } => "open".into(),
                Reach::Closed { .. } if !expected => return None,
                Reach::Closed { reason } => format!("closed: {reason}"),
            };
            let expected = if expected { "open" } else { "closed" };
            Some(format!("{from} to {to} port {}: expected {expected}, seen {seen}", self.port))
        };
        self.probes().filter_map(differs).collect()
    }
}

impl fmt::Display for Matrix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = |party: &Party| party.to_string();
        let port = self.port.to_string();
        let width = self.parties.iter().map(|party| name(party).len()).max().unwrap_or(0).max(port.len());
        write!(f, "{port:width$}")?;
        for party in &self.parties {
            write!(f, "  {party}")?;
        }
        for (party, row) in self.parties.iter().zip(&self.cells) {
            write!(f, "\n{party:width$}")?;
            for (to, cell) in self.parties.iter().zip(row) {
                let mark = match cell {
                    None => " ",
                    Some(cell) if cell.is_open() => ".",
                    Some(cell) if cell.is_translated() => "T",
                    Some(_) => "X",
                };
                write!(f, "  {mark:^w$}", w = name(to).len())?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::{Cell, Matrix};
    use crate::{Party, Port, Reach};

    #[test]
    fn open_closed_and_translated_are_told_apart() {
        let own = vec!["192.0.2.1".parse().unwrap()];
        let cell = |reach| Some(Cell { reach, own: own.clone() });
        let open = |from: &str| cell(Reach::Open { client: from.parse().unwrap() });
        let matrix = Matrix {
            port: Port::tcp(80),
            parties: vec![Party::pod("app", "a"), Party::pod("app", "b")],
            cells: vec![
                vec![cell(Reach::closed("no answer")), open("192.0.2.1")],
                vec![open("192.0.2.9"), None],
            ],
        };
        assert_eq!(matrix.open(), 1);
        assert_eq!(matrix.differences(|_, _| true).len(), 2);
        assert_eq!(matrix.to_string(), "80/TCP  app/a  app/b\napp/a     X      .  \napp/b     T         ");
    }
}
