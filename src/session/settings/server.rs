//! What a server connection has, and the statement that brings it to what a client wants.

use std::fmt::Write;
use std::sync::Arc;

use crate::wire::message;

use super::{ClientSettings, IDENTITY, OWN_PREFIX, REPORTED, Values, is_reported};

/// The default of transactions that reads of a standby depend on.
const ISOLATION: &str = "default_transaction_isolation";

/// What a server connection has.
#[derive(Debug, Default, Clone)]
pub struct ServerSettings {
    /// As reported at login.
    defaults: Values,
    /// As reported last.
    reported: Values,
    /// Set by us or through us, beyond the reported ones.
    others: Values,
    /// What `connect_query` has made of those: what it is to have where no client wants it otherwise.
    given: Values,
    /// What it was found to agree with and has not left since: most clients want the same, and nothing need be compared for them. A
    /// client that changes what it wants makes a copy, for this is one.
    agreed: Option<Arc<Values>>,
    /// There is no setting of ours in that.
    agreed_plainly: bool,
}

impl ServerSettings {
    /// A ParameterStatus of the login.
    pub fn report_default(&mut self, name: &str, value: &str) {
        self.agreed = None;
        let name = name.to_ascii_lowercase();
        self.defaults.insert(name.clone(), value.to_owned());
        self.reported.insert(name, value.to_owned());
    }

    /// `connect_query` has run, and made these of the settings that are not reported: with those that it reports, they are what it has by
    /// itself from now on.
    pub fn begins_with(&mut self, given: Values) {
        self.agreed = None;
        self.defaults.clone_from(&self.reported);
        self.others.retain(|name, _| name.starts_with(OWN_PREFIX));
        self.others.extend(given.clone());
        self.given = given;
    }

    /// What `connect_query` has made of a setting.
    #[must_use]
    pub fn given(&self, name: &str) -> Option<&str> {
        self.given.get(name).map(String::as_str)
    }

    /// A client has reset one of those, or may have: the server may have its own default now.
    pub(super) fn may_lack_given(&mut self, reset: impl Fn(&str) -> bool) {
        if !self.given.is_empty() {
            self.agreed = None;
            self.others.retain(|name, _| !(self.given.contains_key(name) && reset(name)));
        }
    }

    /// A later ParameterStatus.
    pub fn report(&mut self, name: &str, value: &str) {
        self.agreed = None;
        self.reported.insert(name.to_ascii_lowercase(), value.to_owned());
    }

    /// A later ParameterStatus, as it came.
    pub(super) fn report_lossy(&mut self, body: &[u8]) {
        if let Some((name, value)) = message::parameter_status(body) {
            self.report(&String::from_utf8_lossy(name), &String::from_utf8_lossy(value));
        }
    }

    /// What the server has of a reported setting.
    #[must_use]
    pub fn reported(&self, name: &str) -> Option<&str> {
        self.reported.get(name).map(String::as_str)
    }

    /// What it had of a reported setting at login.
    #[must_use]
    pub fn default_of(&self, name: &str) -> Option<&str> {
        self.defaults.get(name).map(String::as_str)
    }

    /// What the server has of a setting beyond the reported ones, where that is not its default.
    #[must_use]
    pub fn other(&self, name: &str) -> Option<&str> {
        self.others.get(name).map(String::as_str)
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

    /// RESET ALL ran here, which leaves alone who the session is.
    pub fn reset_all(&mut self) {
        self.agreed = None;
        self.others.retain(|name, _| IDENTITY.contains(&name.as_str()));
    }

    /// DISCARD ALL ran here.
    pub fn discard_all(&mut self) {
        self.agreed = None;
        self.others.clear();
    }

    /// Beyond the reported ones, it has these and no others.
    pub fn has(&mut self, values: &Values) {
        self.agreed = None;
        // A client that has not touched what was given has not touched it.
        let given = |name: &String, value: &String| self.given.get(name) == Some(value) && !values.contains_key(name);
        self.others.retain(|name, value| name.starts_with(OWN_PREFIX) || given(name, value));
        let others = values.iter().filter(|(name, _)| is_other(name));
        self.others.extend(others.map(|(name, value)| (name.clone(), value.clone())));
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
        self.agreed_plainly = client.wanted.keys().all(|name| !name.starts_with(OWN_PREFIX));
        (!sql.is_empty()).then_some(sql)
    }

    /// Whether nothing is to be changed for the client, as was found when it was last compared, and it wants nothing that is ours.
    #[must_use]
    pub fn plainly_agrees(&self, client: &ClientSettings) -> bool {
        self.agreed_plainly && self.agreed.as_ref().is_some_and(|agreed| Arc::ptr_eq(agreed, &client.wanted))
    }

    /// Whether the server reads the bytes of texts as it will when it has what the client wants.
    #[must_use]
    pub fn reads_texts_for(&self, client: &ClientSettings) -> bool {
        ["client_encoding", "standard_conforming_strings"].iter().all(|name| {
            let want = client.get(name).or_else(|| self.default_of(name));
            want.is_none_or(|want| self.reported(name) == Some(want))
        })
    }

    /// Whether the default isolation level of its transactions stays what it is. Under another one a standby may refuse all but RESET.
    #[must_use]
    pub fn keeps_isolation_for(&self, client: &ClientSettings) -> bool {
        self.others.get(ISOLATION).map(String::as_str) == self.want(client, ISOLATION)
    }

    /// What it is to have of a setting that is not reported, for this client; none: its default.
    fn want<'a>(&'a self, client: &'a ClientSettings, name: &str) -> Option<&'a str> {
        client.get(name).or_else(|| self.given(name))
    }

    /// All as the login's own user, who may set what the client could set; who the client has become since comes last.
    fn difference(&self, client: &ClientSettings) -> String {
        let is_identity = |name: &str| IDENTITY.contains(&name);
        let mut sql = String::new();
        // The default of transactions counts for the one that sets the others, which a standby may refuse for it.
        let has = |name: &str| self.others.get(name).map(String::as_str);
        let first = |name: &str| name == ISOLATION && has(name) != self.want(client, name);
        for name in self.others.keys().filter(|n| (self.want(client, n).is_none() || first(n)) && !is_identity(n)) {
            let _infallible = write!(sql, "RESET {};", quote_setting(name));
        }
        let mut sets = Vec::new();
        for name in REPORTED {
            let have = self.reported(name);
            let want = client.get(name).or_else(|| self.defaults.get(name).map(String::as_str));
            sets.extend(want.filter(|w| Some(*w) != have).map(|want| (name, want)));
        }
        for (name, want) in client.wanted() {
            if is_other(name) && !is_identity(name) && self.others.get(name) != Some(want) {
                sets.push((name, want));
            }
        }
        let given = self.given.iter().filter(|(name, _)| client.get(name).is_none() && !is_identity(name));
        sets.extend(
            given
                .filter(|(name, want)| has(name) != Some(want.as_str()))
                .map(|(name, want)| (name.as_str(), want.as_str())),
        );
        let same_identity = IDENTITY.iter().all(|name| has(name) == self.want(client, name));
        if sql.is_empty() && sets.is_empty() && same_identity {
            return sql;
        }
        for name in IDENTITY.iter().rev().filter(|name| self.others.contains_key(**name)) {
            sql.insert_str(0, &format!("RESET {name};"));
        }
        sets.extend(IDENTITY.iter().filter_map(|name| self.want(client, name).map(|want| (*name, want))));
        if !sets.is_empty() {
            if self.others.get(ISOLATION).is_some_and(|_| first(ISOLATION)) {
                sql = format!("BEGIN;{sql}COMMIT;");
            }
            sql.push_str(&set_all(sets, self.reported("client_encoding")));
        }
        sql
    }

    /// Whether it has nothing but what it had at login.
    #[must_use]
    pub fn is_as_new(&self) -> bool {
        let of_its_own =
            |(name, value): (&String, &String)| name.starts_with(OWN_PREFIX) || self.given.get(name) == Some(value);
        self.reported == self.defaults && self.others.iter().all(of_its_own)
    }

    /// [`ServerSettings::catch_up`] has run.
    pub fn caught_up(&mut self, client: &ClientSettings) {
        self.has(client.wanted());
        let given = self.given.iter().filter(|(name, _)| client.get(name).is_none());
        self.others.extend(given.map(|(name, value)| (name.clone(), value.clone())));
        // Seldom anything is left, and then it is for the next time.
        drop(self.catch_up(client));
    }
}

/// Whether a setting is neither reported nor ours.
fn is_other(name: &str) -> bool {
    !is_reported(name) && !name.starts_with(OWN_PREFIX)
}

/// The statement that sets them, in this order, for a server that reads texts in this encoding.
pub(super) fn set_all<'a>(sets: impl IntoIterator<Item = (&'a str, &'a str)>, encoding: Option<&str>) -> String {
    let mut sql = String::new();
    let as_it_is = encoding.is_none_or(|e| e.eq_ignore_ascii_case("utf8") || e.eq_ignore_ascii_case("sql_ascii"));
    for (name, value) in sets {
        sql.push_str(if sql.is_empty() { "SELECT " } else { "," });
        let value = if as_it_is || value.is_ascii() { quote(value) } else { escape(value) };
        let _infallible = write!(sql, "pg_catalog.set_config({},{value},false)", quote(name));
    }
    sql
}

/// A string literal that is the same under either value of `standard_conforming_strings`.
#[must_use]
pub fn quote(text: &str) -> String {
    let doubled = text.replace('\'', "''");
    if doubled.contains('\\') { format!(" E'{}'", doubled.replace('\\', "\\\\")) } else { format!("'{doubled}'") }
}

/// A string literal that means the same in every encoding of the client's.
pub(super) fn escape(text: &str) -> String {
    let mut out = String::from(" E'");
    for c in text.chars() {
        match c {
            '\'' => out.push_str("''"),
            '\\' => out.push_str("\\\\"),
            c if c.is_ascii() => out.push(c),
            c => {
                let _infallible = write!(out, "\\U{:08X}", u32::from(c));
            }
        }
    }
    out.push('\'');
    out
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
        assert!(!server.plainly_agrees(&ann));
        server.caught_up(&ann);
        assert!(server.plainly_agrees(&ann), "its next statement finds that at once");
        assert_eq!(server.catch_up(&ann), None);
        let bob = ClientSettings::default();
        assert_eq!(
            server.catch_up(&bob).unwrap(),
            "RESET \"search_path\";SELECT pg_catalog.set_config('timezone','Etc/UTC',false)"
        );
    }

    #[test]
    fn texts_are_read_otherwise_where_what_they_are_read_by_differs() {
        let mut server = server();
        server.report_default("client_encoding", "UTF8");
        server.report_default("standard_conforming_strings", "on");
        let with = |pairs: &[(&str, &str)]| ClientSettings::new(values(pairs));
        let plain = with(&[("timezone", "Asia/Tokyo"), ("geqo", "off"), ("client_encoding", "UTF8")]);
        let latin = with(&[("client_encoding", "LATIN1")]);
        let off = with(&[("standard_conforming_strings", "off")]);
        let reads = |server: &ServerSettings| [&plain, &latin, &off].map(|client| server.reads_texts_for(client));
        assert_eq!(reads(&server), [true, false, false]);
        server.report("client_encoding", "LATIN1");
        assert_eq!(reads(&server), [false, true, false], "what it goes back to counts as well");
    }

    #[test]
    fn a_server_is_as_new_when_nothing_of_anybodys_is_left() {
        let mut server = server();
        server.set_other("pgweir.route", "primary");
        assert!(server.is_as_new());
        server.report("TimeZone", "Asia/Tokyo");
        assert!(!server.is_as_new());
        server.report("TimeZone", "Etc/UTC");
        server.set_other("geqo", "off");
        assert!(!server.is_as_new());
        server.discard_all();
        assert!(server.is_as_new());
    }

    #[test]
    fn what_connect_query_gave_is_what_a_server_goes_back_to() {
        let mut server = server();
        server.report("TimeZone", "Asia/Tokyo");
        server.begins_with(values(&[("role", "r"), ("search_path", "app"), ("work_mem", "3MB")]));
        assert!(server.is_as_new());
        let nobody = ClientSettings::default();
        assert_eq!(server.catch_up(&nobody), None, "it has that by itself");
        let ann = ClientSettings::new(values(&[("search_path", "x"), ("geqo", "off")]));
        let sql = server.catch_up(&ann).unwrap();
        let set = "RESET role;SELECT pg_catalog.set_config('geqo','off',false),\
                   pg_catalog.set_config('search_path','x',false),pg_catalog.set_config('role','r',false)";
        assert_eq!(sql, set);
        server.caught_up(&ann);
        assert_eq!(server.catch_up(&ann), None);
        // A transaction of hers is over.
        server.has(ann.wanted());
        assert_eq!(server.catch_up(&ann), None);
        let sql = server.catch_up(&nobody).unwrap();
        let back = "RESET role;RESET \"geqo\";SELECT pg_catalog.set_config('search_path','app',false),\
                    pg_catalog.set_config('role','r',false)";
        assert_eq!(sql, back);
        server.caught_up(&nobody);
        assert!(server.is_as_new() && server.catch_up(&nobody).is_none());
        // Whatever resets leads there.
        let all = "RESET role;SELECT pg_catalog.set_config('search_path','app',false),\
                   pg_catalog.set_config('work_mem','3MB',false),pg_catalog.set_config('role','r',false)";
        let path = "RESET role;SELECT pg_catalog.set_config('search_path','app',false),pg_catalog.set_config('role','r',false)";
        type Way = (fn(&mut ServerSettings), &'static str);
        let ways: [Way; 3] = [
            (|s| s.discard_all(), all.trim_start_matches("RESET role;")),
            (|s| s.may_lack_given(|name| !IDENTITY.contains(&name)), all),
            (|s| s.may_lack_given(|name| name == "search_path"), path),
        ];
        for (reset, back) in ways {
            let mut server = server.clone();
            reset(&mut server);
            assert_eq!(server.catch_up(&nobody).as_deref(), Some(back));
        }
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
    fn who_the_client_is_comes_last_and_everything_else_as_the_login() {
        let mut server = server();
        let mut ann = ClientSettings::new(values(&[("role", "r"), ("work_mem", "1MB"), ("app.x", "1")]));
        ann.set("session_authorization", "a'b");
        let set = "SELECT pg_catalog.set_config('app.x','1',false),pg_catalog.set_config('work_mem','1MB',false),\
                   pg_catalog.set_config('session_authorization','a''b',false),pg_catalog.set_config('role','r',false)";
        assert_eq!(server.catch_up(&ann).as_deref(), Some(set));
        server.caught_up(&ann);
        assert_eq!(server.catch_up(&ann), None);
        // Somebody who is the same, and wants one thing more: that is set before the role is taken again.
        let mut bob = ann.clone();
        bob.set("geqo", "off");
        let sql = server.catch_up(&bob).unwrap();
        let set = "RESET session_authorization;RESET role;SELECT pg_catalog.set_config('geqo','off',false),\
                   pg_catalog.set_config('session_authorization','a''b',false),pg_catalog.set_config('role','r',false)";
        assert_eq!(sql, set);
        let nobody = ClientSettings::default();
        let reset = "RESET session_authorization;RESET role;RESET \"app\".\"x\";RESET \"work_mem\";";
        assert_eq!(server.catch_up(&nobody).as_deref(), Some(reset));
        server.reset_all();
        assert_eq!(server.catch_up(&nobody).as_deref(), Some("RESET session_authorization;RESET role;"));
    }

    #[test]
    fn values_mean_the_same_in_every_encoding() {
        let sets = [("app.x", "a'b\\c\u{e9}\u{1f600}")];
        assert_eq!(
            set_all(sets, Some("LATIN1")),
            r"SELECT pg_catalog.set_config('app.x', E'a''b\\c\U000000E9\U0001F600',false)"
        );
        assert_eq!(
            set_all([("app.x", "\u{e9}")], Some("UTF8")),
            "SELECT pg_catalog.set_config('app.x','\u{e9}',false)"
        );
    }

    /// A standby has no snapshot for a serializable transaction, which the first of a text decides.
    #[test]
    fn the_default_of_transactions_is_undone_before_anything_is_set() {
        let mut server = server();
        server.set_other(ISOLATION, "serializable");
        server.set_other("geqo", "off");
        let set = |name: &str| format!("SELECT pg_catalog.set_config({name},false)");
        for (wanted, sets) in [
            (values(&[("work_mem", "1MB")]), set("'work_mem','1MB'")),
            (values(&[(ISOLATION, "read committed")]), set("'default_transaction_isolation','read committed'")),
        ] {
            let sql = server.catch_up(&ClientSettings::new(wanted)).unwrap();
            let reset = "RESET \"default_transaction_isolation\";RESET \"geqo\";";
            assert_eq!(sql, format!("BEGIN;{reset}COMMIT;{sets}"));
        }
        let sql = server.catch_up(&ClientSettings::new(values(&[(ISOLATION, "serializable"), ("a.b", "1")])));
        assert_eq!(sql.unwrap(), format!("RESET \"geqo\";{}", set("'a.b','1'")));
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
