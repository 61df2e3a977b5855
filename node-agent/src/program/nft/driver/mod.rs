//! Writing the table, and seeing to it that it stays as written.

use std::collections::{BTreeMap, BTreeSet};

use margay_netlink::{
    Error,
    nftables::{Connection, Count, Transaction},
};
use margay_policy::compile::{Changes, Compiler};
use tracing::debug;

use super::{
    apply::LaidOut,
    layout,
    table::{TABLE, Table},
};
use crate::decide::Wanted;

/// Keeps the kernel's table as wanted. Everything here is done by the time that it returns: the kernel takes some ten
/// microseconds for a few elements, and some hundred milliseconds for a whole table of tens of thousands.
pub(crate) struct Driver {
    table: Table,
    /// What was laid out in the table.
    laid_out: LaidOut,
    /// The kernel's ruleset in which the table was seen to be as written, or was written.
    generation: Option<u32>,
    /// Opened when it is first needed.
    connection: Option<Connection>,
}

impl Driver {
    /// One that knows nothing of what the kernel holds, and wants the base of the table.
    pub(crate) fn new() -> Self {
        let mut table = Table::default();
        layout::put_base(&mut table);
        Self { table, laid_out: LaidOut::default(), generation: None, connection: None }
    }

    /// What is wanted, to be changed.
    #[cfg(test)]
    pub(crate) fn table(&mut self) -> &mut Table {
        &mut self.table
    }

    /// Makes the kernel hold what is wanted in one transaction, and says how many changes that took, elements counted
    /// one by one; none when nothing differs.
    ///
    /// # Errors
    /// When the kernel refuses: it holds what it held before. The next attempt replaces the whole table.
    pub(crate) fn commit(&mut self) -> Result<usize, Error> {
        let transaction = self.table.transaction();
        let changes = transaction.count();
        if changes == 0 {
            return Ok(0);
        }
        match self.try_commit(&transaction) {
            Ok(generation) => {
                self.generation = generation;
                self.table.committed();
                Ok(changes)
            }
            Err(error) => {
                self.lose();
                Err(error)
            }
        }
    }

    /// Makes the kernel hold the endpoints that are wanted and what has changed of the policy, as [`Driver::commit`] does.
    ///
    /// # Errors
    /// As [`Driver::commit`]; what has changed is not forgotten then.
    pub(crate) fn apply(
        &mut self,
        wanted: &Wanted,
        compiler: &Compiler,
        changes: &Changes,
    ) -> Result<usize, Error> {
        self.laid_out.policy(compiler, changes, &mut self.table);
        self.laid_out.endpoints(&wanted.endpoints, &mut self.table);
        self.laid_out.tunnel_ends(wanted.tunnel_ends.as_ref(), &mut self.table);
        self.laid_out.masquerade(wanted.masquerade.as_ref(), &mut self.table);
        self.commit()
    }

    /// Looks whether the table still has the sets, chains, rules and counters that were written, where anything has
    /// changed in nftables since; elements are not listed, so that the cost does not grow with the cluster. False when
    /// somebody flushed or edited it: the next [`Driver::commit`] then replaces the whole table.
    ///
    /// # Errors
    /// When the kernel does not tell.
    pub(crate) fn verify(&mut self) -> Result<bool, Error> {
        if !self.table.is_known() {
            return Ok(true);
        }
        let known = self.generation;
        let connection = connect(&mut self.connection)?;
        let generation = connection.generation()?;
        if known == Some(generation) {
            return Ok(true);
        }
        let outline = connection.outline(TABLE)?;
        let is_same = self.table.is_outlined_by(&outline);
        if is_same {
            // What comes in between is looked at next time.
            self.generation = Some(generation);
        } else {
            self.lose();
        }
        Ok(is_same)
    }

    /// Whether the next commit replaces the whole table, and its counters with it.
    pub(crate) fn replaces(&self) -> bool {
        !self.table.is_known()
    }

    /// What the table's named counters have seen since they were made; a replacement of the table makes them anew.
    ///
    /// # Errors
    /// When the kernel does not tell.
    pub(crate) fn counters(&mut self) -> Result<BTreeMap<String, Count>, Error> {
        connect(&mut self.connection)?.counters(TABLE)
    }

    /// What one of them has seen; `None` when it is not there.
    ///
    /// # Errors
    /// When the kernel does not tell.
    pub(crate) fn counter(&mut self, name: &str) -> Result<Option<Count>, Error> {
        connect(&mut self.connection)?.counter(TABLE, name)
    }

    /// Takes note of who changed the table, by the netlink ports that the kernel tells; false when somebody else
    /// did: the next [`Driver::commit`] then replaces the whole table.
    pub(crate) fn heed(&mut self, ports: &BTreeSet<u32>) -> bool {
        let own = self.connection.as_ref().map(Connection::port);
        let is_ours = ports.iter().all(|port| own == Some(*port));
        if !is_ours {
            self.lose();
        }
        is_ours
    }

    /// Takes note that changes were made of which it is not known by whom; false when not all of them can have been our
    /// own: the next [`Driver::commit`] then replaces the whole table, as elements cannot be looked at.
    pub(crate) fn heed_missed(&mut self) -> bool {
        if !self.table.is_known() {
            return true;
        }
        let known = self.generation;
        let now = connect(&mut self.connection).and_then(Connection::generation);
        let is_ours = now.is_ok_and(|now| known == Some(now));
        if !is_ours {
            self.lose();
        }
        is_ours
    }

    /// Gives back the generation that it made; `None` when somebody else may have changed the table meanwhile.
    fn try_commit(&mut self, transaction: &Transaction) -> Result<Option<u32>, Error> {
        let is_replacement = !self.table.is_known();
        let connection = connect(&mut self.connection)?;
        let before = if is_replacement { Some(connection.generation()?) } else { self.generation };
        connection.commit(transaction)?;
        let after = connection.generation()?;
        debug!(changes = transaction.count(), generation = after, "nftables transaction");
        Ok(before.filter(|before| before.wrapping_add(1) == after).map(|_| after))
    }

    fn lose(&mut self) {
        self.table.lost();
        self.generation = None;
    }
}

fn connect(connection: &mut Option<Connection>) -> Result<&mut Connection, Error> {
    match connection.take() {
        Some(open) => Ok(connection.insert(open)),
        None => Ok(connection.insert(Connection::open()?)),
    }
}

#[cfg(test)]
mod packets;
#[cfg(test)]
mod tests;
