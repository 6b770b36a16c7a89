//! Settings that follow the client: what it wants, what a server has, and the statement that brings them together.
//!
//! PostgreSQL reports some settings whenever they change (ParameterStatus), rollbacks included: for those the server's own
//! word is kept. The others are known only from the statements that set them.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::Arc;

use crate::sql::facts::{PinReason, SessionEffect};

/// Settings whose changes PostgreSQL reports and which a client may set; names in lower case.
///
/// <https://www.postgresql.org/docs/current/protocol-flow.html#PROTOCOL-ASYNC>
pub const REPORTED: [&str; 6] =
    ["application_name", "client_encoding", "datestyle", "intervalstyle", "standard_conforming_strings", "timezone"];

/// Whether the server reports changes of this setting (name in lower case).
#[must_use]
pub fn is_reported(name: &str) -> bool {
    REPORTED.contains(&name)
}

/// Prefix of the settings that are pgweir's own: they say where statements go and never need to be on a server.
pub const OWN_PREFIX: &str = "pgweir.";

/// Whether an effect changes what decides where a statement goes on a sharded database: how its names and keys are read, or what is
/// chosen.
#[must_use]
pub fn decides_shard(effect: &SessionEffect) -> bool {
    match effect {
        SessionEffect::Set { name, .. } | SessionEffect::Reset { name } => {
            matches!(name.as_str(), "search_path" | "client_encoding" | "standard_conforming_strings" | "role")
                || name.starts_with(OWN_PREFIX)
        }
        SessionEffect::ResetAll | SessionEffect::DiscardAll | SessionEffect::Pin(PinReason::Identity) => true,
        SessionEffect::Pin(_) | SessionEffect::DeallocateAll | SessionEffect::Deallocate { .. } => false,
    }
}

/// Settings by name in lower case.
pub type Values = BTreeMap<String, String>;

/// What a client wants.
#[derive(Debug, Default, Clone)]
pub struct ClientSettings {
    /// Given at startup; RESET returns to these. Shared by clients that gave the same.
    startup: Arc<Values>,
    /// Wanted now, where it differs from the server's default.
    wanted: Arc<Values>,
}

impl ClientSettings {
    /// Starts from what the client gave at startup.
    #[must_use]
    pub fn new(startup: impl Into<Arc<Values>>) -> Self {
        let startup = startup.into();
        Self { wanted: Arc::clone(&startup), startup }
    }

    /// What it wants of `name`, if it ever said.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        self.wanted.get(name).map(String::as_str)
    }

    /// All it wants.
    #[must_use]
    pub fn wanted(&self) -> &Values {
        &self.wanted
    }

    /// The client has set it.
    pub fn set(&mut self, name: &str, value: &str) {
        if self.wanted.get(name).is_none_or(|v| v != value) {
            Arc::make_mut(&mut self.wanted).insert(name.to_owned(), value.to_owned());
        }
    }

    /// RESET.
    pub fn reset(&mut self, name: &str) {
        let given = self.startup.get(name);
        if self.wanted.get(name) == given {
            return;
        }
        let wanted = Arc::make_mut(&mut self.wanted);
        match given {
            Some(value) => wanted.insert(name.to_owned(), value.clone()),
            None => wanted.remove(name),
        };
    }

    /// RESET ALL, DISCARD ALL.
    pub fn reset_all(&mut self) {
        self.wanted = Arc::clone(&self.startup);
    }
}

/// What a server connection has.
#[derive(Debug, Default, Clone)]
pub struct ServerSettings {
    /// As reported at login.
    defaults: Values,
    /// As reported last.
    reported: Values,
    /// Set by us or through us, beyond the reported ones.
    others: Values,
    /// What it was found to agree with and has not left since: most clients want the same, and nothing need be compared for them. A
    /// client that changes what it wants makes a copy, for this is one.
    agreed: Option<Arc<Values>>,
}

impl ServerSettings {
    /// A ParameterStatus of the login.
    pub fn report_default(&mut self, name: &str, value: &str) {
        self.agreed = None;
        let name = name.to_ascii_lowercase();
        self.defaults.insert(name.clone(), value.to_owned());
        self.reported.insert(name, value.to_owned());
    }

    /// A later ParameterStatus.
    pub fn report(&mut self, name: &str, value: &str) {
        self.agreed = None;
        self.reported.insert(name.to_ascii_lowercase(), value.to_owned());
    }

    /// What the server has of a reported setting.
    #[must_use]
    pub fn reported(&self, name: &str) -> Option<&str> {
        self.reported.get(name).map(String::as_str)
    }

    /// A setting beyond the reported ones was set on this server.
    pub fn set_other(&mut self, name: &str, value: &str) {
        self.agreed = None;
        self.others.insert(name.to_owned(), value.to_owned());
    }

    /// ... or reset.
    pub fn reset_other(&mut self, name: &str) {
        self.agreed = None;
        self.others.remove(name);
    }

    /// RESET ALL or DISCARD ALL ran here.
    pub fn reset_all(&mut self) {
        self.agreed = None;
        self.others.clear();
    }

    /// The statements that give this server what the client wants; `None` when it has it already.
    ///
    /// Values go through `set_config`, so that lists and quoting need no care; each only where it differs.
    #[must_use]
    pub fn catch_up(&mut self, client: &ClientSettings) -> Option<String> {
        if self.agreed.as_ref().is_some_and(|agreed| Arc::ptr_eq(agreed, &client.wanted)) {
            return None;
        }
        let sql = self.difference(client);
        self.agreed = sql.is_empty().then(|| Arc::clone(&client.wanted));
        (!sql.is_empty()).then_some(sql)
    }

    fn difference(&self, client: &ClientSettings) -> String {
        let mut sql = String::new();
        for name in self.others.keys().filter(|n| client.get(n).is_none()) {
            let _infallible = write!(sql, "RESET {};", quote_setting(name));
        }
        let mut sets = 0_u32;
        let mut set = |sql: &mut String, name: &str, value: &str| {
            sql.push_str(if sets == 0 { "SELECT " } else { "," });
            sets += 1;
            let _infallible = write!(sql, "pg_catalog.set_config({},{},false)", quote(name), quote(value));
        };
        for name in REPORTED {
            let have = self.reported(name);
            let want = client.get(name).or_else(|| self.defaults.get(name).map(String::as_str));
            if let Some(want) = want.filter(|w| Some(*w) != have) {
                set(&mut sql, name, want);
            }
        }
        for (name, want) in client.wanted() {
            if !is_reported(name) && !name.starts_with(OWN_PREFIX) && self.others.get(name) != Some(want) {
                set(&mut sql, name, want);
            }
        }
        sql
    }

    /// [`ServerSettings::catch_up`] has run.
    pub fn caught_up(&mut self, client: &ClientSettings) {
        self.agreed = None;
        self.others.retain(|n, _| client.get(n).is_some());
        for (name, value) in client.wanted() {
            if !is_reported(name) && !name.starts_with(OWN_PREFIX) {
                self.others.insert(name.clone(), value.clone());
            }
        }
    }
}

/// A string literal that is the same under either value of `standard_conforming_strings`.
#[must_use]
pub fn quote(text: &str) -> String {
    let doubled = text.replace('\'', "''");
    if doubled.contains('\\') { format!(" E'{}'", doubled.replace('\\', "\\\\")) } else { format!("'{doubled}'") }
}

/// A setting's name as RESET takes it: each dotted part quoted.
fn quote_setting(name: &str) -> String {
    name.split('.').map(|part| format!("\"{}\"", part.replace('"', "\"\""))).collect::<Vec<_>>().join(".")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(pairs: &[(&str, &str)]) -> Values {
        pairs.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect()
    }

    fn server() -> ServerSettings {
        let mut s = ServerSettings::default();
        s.report_default("TimeZone", "Etc/UTC");
        s.report_default("application_name", "");
        s
    }

    #[test]
    fn only_what_differs_is_set_and_the_last_clients_settings_are_undone() {
        let mut server = server();
        let ann = ClientSettings::new(values(&[("timezone", "Asia/Tokyo"), ("search_path", "a, \"B'c\"")]));
        let sql = server.catch_up(&ann).unwrap();
        assert_eq!(
            sql,
            "SELECT pg_catalog.set_config('timezone','Asia/Tokyo',false),\
             pg_catalog.set_config('search_path','a, \"B''c\"',false)"
        );
        server.report("TimeZone", "Asia/Tokyo");
        server.caught_up(&ann);
        assert_eq!(server.catch_up(&ann), None);
        let bob = ClientSettings::default();
        assert_eq!(
            server.catch_up(&bob).unwrap(),
            "RESET \"search_path\";SELECT pg_catalog.set_config('timezone','Etc/UTC',false)"
        );
    }

    #[test]
    fn agreement_ends_with_any_change_on_either_side() {
        let mut server = server();
        let startup = Arc::new(values(&[("timezone", "Etc/UTC")]));
        let mut ann = ClientSettings::new(Arc::clone(&startup));
        let bob = ClientSettings::new(startup);
        assert_eq!((server.catch_up(&ann), server.catch_up(&bob)), (None, None));
        ann.set("geqo", "off");
        let set = "SELECT pg_catalog.set_config('geqo','off',false)";
        assert_eq!(server.catch_up(&ann).as_deref(), Some(set));
        server.caught_up(&ann);
        assert_eq!(server.catch_up(&ann), None);
        assert_eq!(server.catch_up(&bob).as_deref(), Some("RESET \"geqo\";"));
        ann.reset("geqo");
        assert_eq!(server.catch_up(&ann).as_deref(), Some("RESET \"geqo\";"));
        server.reset_other("geqo");
        assert_eq!((server.catch_up(&ann), server.catch_up(&bob)), (None, None));
        // The server's side: what it reports, what was set through it.
        let changes: [fn(&mut ServerSettings); 2] =
            [|s| s.report("TimeZone", "Asia/Tokyo"), |s| s.set_other("geqo", "off")];
        for change in changes {
            let mut server = server.clone();
            assert_eq!(server.catch_up(&bob), None);
            change(&mut server);
            assert!(server.catch_up(&bob).is_some());
        }
    }

    #[test]
    fn reset_returns_to_what_startup_gave() {
        let mut c = ClientSettings::new(values(&[("work_mem", "1MB")]));
        c.set("work_mem", "2MB");
        c.set("geqo", "off");
        c.reset("work_mem");
        c.reset("geqo");
        assert_eq!((c.get("work_mem"), c.get("geqo")), (Some("1MB"), None));
    }

    #[test]
    fn our_own_settings_stay_with_us() {
        let mut c = ClientSettings::default();
        c.set("pgweir.route", "primary");
        assert_eq!(server().catch_up(&c), None);
    }

    #[test]
    fn quotes_cannot_be_escaped() {
        assert_eq!(quote("a'b"), "'a''b'");
        assert_eq!(quote(r"a\'b"), r" E'a\\''b'");
    }
}
