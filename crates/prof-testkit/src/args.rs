//! A minimal argument reader: starting up must stay cheap, since storms start this program often.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::path::PathBuf;

use crate::error::{Error, Result};

/// The arguments of one subcommand.
pub struct Args {
    items: VecDeque<OsString>,
}

impl Args {
    /// Takes over the arguments that follow the subcommand's name.
    pub fn new(items: impl IntoIterator<Item = OsString>) -> Self {
        Self { items: items.into_iter().collect() }
    }

    /// Removes `name` wherever it stands; for subcommands without a trailing command.
    pub fn flag(&mut self, name: &str) -> bool {
        match self.items.iter().position(|item| item == name) {
            Some(index) => self.items.remove(index).is_some(),
            None => false,
        }
    }

    /// Removes `name` if it is the very next argument; for subcommands with a trailing command.
    pub fn leading_flag(&mut self, name: &str) -> bool {
        let found = self.items.front().is_some_and(|item| item == name);
        if found {
            self.items.pop_front();
        }
        found
    }

    /// Removes `name NUMBER` wherever it stands.
    pub fn option_number(&mut self, name: &str) -> Result<Option<u64>> {
        let Some(index) = self.items.iter().position(|item| item == name) else {
            return Ok(None);
        };
        self.items.remove(index);
        match self.items.remove(index) {
            Some(value) => parse_number(name, &value).map(Some),
            None => Err(Error::new(format!("{name} needs a number"))),
        }
    }

    /// The next argument, which must be present.
    pub fn text(&mut self, name: &str) -> Result<OsString> {
        self.items.pop_front().ok_or_else(|| Error::new(format!("missing argument {name}")))
    }

    /// The next argument as a path.
    pub fn path(&mut self, name: &str) -> Result<PathBuf> {
        self.text(name).map(PathBuf::from)
    }

    /// The next argument as a number, which must be present.
    pub fn number(&mut self, name: &str) -> Result<u64> {
        let value = self.text(name)?;
        parse_number(name, &value)
    }

    /// The next argument as a number, if there is one.
    pub fn optional_number(&mut self, name: &str) -> Result<Option<u64>> {
        self.items.pop_front().map(|value| parse_number(name, &value)).transpose()
    }

    /// All remaining arguments, without a leading `--`; may be empty.
    pub fn optional_command(mut self) -> Vec<OsString> {
        self.leading_flag("--");
        self.items.into()
    }

    /// All remaining arguments, without a leading `--`; must not be empty.
    pub fn command(self) -> Result<Vec<OsString>> {
        let command = self.optional_command();
        if command.is_empty() {
            return Err(Error::new("missing command to execute"));
        }
        Ok(command)
    }

    /// Fails if an argument was left over.
    pub fn finish(self) -> Result<()> {
        match self.items.front() {
            Some(item) => Err(Error::new(format!("unexpected argument {}", item.display()))),
            None => Ok(()),
        }
    }
}

fn parse_number(name: &str, value: &OsString) -> Result<u64> {
    value
        .to_str()
        .and_then(|text| text.parse().ok())
        .ok_or_else(|| Error::new(format!("{name}: not a number: {}", value.display())))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;

    fn args(items: &[&str]) -> Args {
        Args::new(items.iter().map(OsString::from))
    }

    #[test]
    fn options_may_stand_anywhere() {
        let mut args = args(&["--vfork", "10", "--jobs", "3"]);
        assert!(args.flag("--vfork"));
        assert_eq!(args.option_number("--jobs").unwrap(), Some(3));
        assert_eq!(args.number("N").unwrap(), 10);
        args.finish().unwrap();
    }

    #[test]
    fn command_keeps_its_own_flags() {
        let mut args = args(&["--outlive", "--", "cmd", "--outlive"]);
        assert!(args.leading_flag("--outlive"));
        assert_eq!(args.command().unwrap(), ["cmd", "--outlive"]);
    }

    #[test]
    fn bad_input_is_an_error() {
        assert!(args(&["x"]).number("N").is_err());
        assert!(args(&[]).number("N").is_err());
        assert!(args(&["--jobs"]).option_number("--jobs").is_err());
        assert!(args(&[]).command().is_err());
        assert!(args(&["x"]).finish().is_err());
    }
}
