//! Passwords that others know: an LDAP server, or the modules of PAM. What is asked of them; `client::external` asks.

use std::sync::Arc;

use super::ldap::LdapSettings;

/// Who is asked whether a password is right.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum External {
    /// An LDAP server.
    Ldap(Arc<LdapSettings>),
    /// PAM, under this name of a service.
    Pam(String),
}

/// Whom this program can ask: it depends on how it was built.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Built {
    /// With the feature `ldap`.
    pub ldap: bool,
    /// With the feature `pam`.
    pub pam: bool,
}

impl Built {
    /// This program.
    pub const HERE: Self = Self { ldap: cfg!(feature = "ldap"), pam: cfg!(feature = "pam") };

    /// What is missing for a method; none if nothing is.
    #[must_use]
    pub fn lacks(self, method: &str) -> Option<String> {
        let feature = match method {
            "ldap" if !self.ldap => "ldap",
            "pam" if !self.pam => "pam",
            _ => return None,
        };
        Some(format!("this pgweir was built without it: build it with `cargo build --features {feature}`"))
    }
}
