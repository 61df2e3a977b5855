//! The command line with the environment; what is wrong with a variable is said by its name, where clap names the flag alone.

use std::ffi::OsString;

use clap::{
    CommandFactory, Error, Parser,
    error::{ContextKind, ContextValue},
};

use super::Cli;

impl Cli {
    /// # Errors
    /// What cannot be read, or what was asked for instead: the help, the version.
    pub(crate) fn read(arguments: &[OsString]) -> Result<Self, Error> {
        Self::try_parse_from(arguments).map_err(|error| with_variable(error, arguments))
    }
}

fn with_variable(mut error: Error, arguments: &[OsString]) -> Error {
    let Some(ContextValue::String(shown)) = error.get(ContextKind::InvalidArg) else { return error };
    let mut command = Cli::command();
    command.build();
    let found = command.get_arguments().find(|argument| argument.to_string() == *shown);
    let Some((flag, variable)) = found.and_then(|argument| argument.get_long().zip(argument.get_env()))
    else {
        return error;
    };
    // The flag wins, so where there is one it is what is wrong.
    let is_flag = |given: &OsString| {
        let given = given.to_str().and_then(|given| given.strip_prefix("--"));
        given.is_some_and(|given| given.split('=').next() == Some(flag))
    };
    if arguments.iter().any(is_flag) {
        return error;
    }
    let named = format!("{} of the environment ({shown})", variable.to_string_lossy());
    error.insert(ContextKind::InvalidArg, ContextValue::String(named));
    error
}
