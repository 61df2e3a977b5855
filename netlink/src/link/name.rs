//! Interface names.

use std::{fmt, str::FromStr};

/// A name that the kernel accepts for an interface (`dev_valid_name`): 1 to 15 octets, no `/`, `:` or white
/// space, not `.` or `..`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct IfName(String);

/// Text that is no interface name.
#[derive(Debug, thiserror::Error)]
#[error("`{0}` is not an interface name: it takes 1 to 15 octets without `/`, `:` and white space")]
pub struct IfNameError(String);

impl IfName {
    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for IfName {
    type Err = IfNameError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let valid = (1..=15).contains(&text.len())
            && text != "."
            && text != ".."
            && !text.contains(|c: char| c == '/' || c == ':' || c == '\0' || c.is_whitespace());
        if valid { Ok(Self(text.to_owned())) } else { Err(IfNameError(text.to_owned())) }
    }
}

impl fmt::Display for IfName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::IfName;

    #[test]
    fn names_that_the_kernel_refuses_are_refused() {
        for bad in ["", ".", "..", "a/b", "a b", "a:b", "sixteen-octets-x"] {
            assert!(bad.parse::<IfName>().is_err(), "{bad}");
        }
        for good in ["eth0", "mgy0123456789ab", "fifteen-octets-"] {
            assert_eq!(good.parse::<IfName>().unwrap().as_str(), good);
        }
    }
}
