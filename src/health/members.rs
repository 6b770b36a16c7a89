//! What Patroni says of its cluster: the page `/cluster` of its REST interface. Pure.
//!
//! See <https://patroni.readthedocs.io/en/latest/rest_api.html#cluster-status-endpoints>.

use serde::Deserialize;

/// What a member of the cluster is, by Patroni's word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum MemberRole {
    /// It holds the lock of the leader, and is a primary.
    Leader,
    /// It holds the lock in a cluster that as a whole follows another one: it is in recovery.
    StandbyLeader,
    /// A replica that has every acknowledged commit.
    SyncStandby,
    /// A replica.
    Replica,
    /// What Patroni has no other word for here.
    Other,
}

impl MemberRole {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Leader, Self::StandbyLeader, Self::SyncStandby, Self::Replica, Self::Other];

    /// The word of SHOW REPLICAS, which is Patroni's.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Leader => "leader",
            Self::StandbyLeader => "standby_leader",
            Self::SyncStandby => "sync_standby",
            Self::Replica => "replica",
            Self::Other => "other",
        }
    }

    /// The words have changed in the course of time, and new kinds of standbys may come.
    fn of(word: &str) -> Self {
        match word {
            // The last one has the lock and is about to leave recovery.
            "leader" | "master" | "primary" | "promoted" => Self::Leader,
            "standby_leader" => Self::StandbyLeader,
            "sync_standby" | "quorum_standby" => Self::SyncStandby,
            "replica" => Self::Replica,
            _ => Self::Other,
        }
    }
}

/// What it says of one of our servers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Member {
    /// What it is.
    pub role: MemberRole,
    /// It runs.
    pub serves: bool,
}

/// One member of a cluster, and where it takes connections.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// Patroni's name of it.
    pub name: String,
    /// Its host, as the other members are told it; several with commas between them.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// What it is, and whether it runs.
    pub member: Member,
    /// Its timeline, while it runs.
    pub timeline: Option<u32>,
}

/// More members of one page are not looked at.
const MOST_MEMBERS: usize = 256;

/// What a page says.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Members {
    /// The members, 256 at most.
    pub found: Vec<Found>,
    /// What is wrong with the first one that was left out because it cannot be read.
    pub odd: Option<String>,
}

#[derive(Deserialize)]
struct Page {
    members: Vec<serde_json::Value>,
}

/// What we read of a member; there is more.
#[derive(Deserialize)]
struct Written {
    #[serde(default)]
    name: String,
    role: String,
    #[serde(default)]
    state: String,
    /// Absent while it is not known yet.
    host: Option<String>,
    port: Option<u16>,
    timeline: Option<u32>,
}

impl Written {
    fn found(self) -> Option<Found> {
        let member = Member {
            role: MemberRole::of(&self.role),
            serves: matches!(&*self.state, "running" | "streaming" | "in archive recovery"),
        };
        let port = self.port.unwrap_or(5432);
        Some(Found { name: self.name, host: self.host?, port, member, timeline: self.timeline })
    }
}

impl Members {
    /// Reads the page. Members of which nobody knows yet where they are, are left out; so are those that cannot be read, if others can.
    ///
    /// # Errors
    /// It is not such a page.
    pub fn parse(page: &[u8]) -> Result<Self, String> {
        let wrong = |why: serde_json::Error| format!("not Patroni's page of a cluster: {why}");
        let page: Page = serde_json::from_slice(page).map_err(wrong)?;
        let mut members = Self::default();
        let mut is_readable = page.members.is_empty();
        for (at, member) in (1..).zip(page.members.into_iter().take(MOST_MEMBERS)) {
            match Written::deserialize(member) {
                Ok(written) => {
                    is_readable = true;
                    members.found.extend(written.found());
                }
                Err(why) if members.odd.is_none() => members.odd = Some(format!("member {at}: {why}")),
                Err(_) => {}
            }
        }
        match members.odd {
            Some(why) if !is_readable => Err(format!("not Patroni's page of a cluster: {why}")),
            _ => Ok(members),
        }
    }

    /// The timeline of the leader: of two pages the one with the higher is the later; 0: there is none.
    #[must_use]
    pub fn timeline(&self) -> u32 {
        let leader = self.found.iter().find(|found| found.member.role == MemberRole::Leader);
        leader.and_then(|leader| leader.timeline).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As Patroni 3.0 gives it, and 4.0 in the second member.
    const PAGE: &str = r#"{"members": [
        {"name": "a", "role": "leader", "state": "running", "api_url": "http://10.0.0.1:8008/patroni",
         "host": "10.0.0.1", "port": 5433, "timeline": 7, "pending_restart": true},
        {"name": "b", "role": "quorum_standby", "state": "streaming", "host": "db-b", "timeline": 7, "lag": 0, "lsn": "0/1"},
        {"name": "c", "role": "replica", "state": "stopped", "host": "10.0.0.3", "port": 5432, "lag": "unknown",
         "tags": {"nofailover": true}},
        {"name": "new", "role": "replica", "state": "creating replica", "lag": "unknown"}
      ], "pause": true, "scheduled_switchover": {"at": "2026-11-28T10:00:00+00:00"}}"#;

    #[test]
    fn a_page_is_read() {
        let members = Members::parse(PAGE.as_bytes()).unwrap();
        let seen: Vec<_> = members
            .found
            .iter()
            .map(|m| (&*m.name, &*m.host, m.port, m.member.role.as_str(), m.member.serves))
            .collect();
        assert_eq!(
            seen,
            [
                ("a", "10.0.0.1", 5433, "leader", true),
                ("b", "db-b", 5432, "sync_standby", true),
                ("c", "10.0.0.3", 5432, "replica", false)
            ]
        );
        assert_eq!(members.timeline(), 7);
        let other = PAGE.replace("\"leader\"", "\"standby_leader\"");
        let other = Members::parse(other.as_bytes()).unwrap();
        assert_eq!((other.found[0].member.role, other.timeline()), (MemberRole::StandbyLeader, 0));
        assert_eq!(Members::parse(br#"{"members": []}"#).unwrap(), Members::default());
    }

    #[test]
    fn another_page_is_refused() {
        for page in
            ["", "[]", "{}", "{\"members\": 1}", "<html>", r#"{"members": [{"role": 1}]}"#, "{\"members\": [{}]}"]
        {
            assert!(Members::parse(page.as_bytes()).unwrap_err().contains("Patroni"), "{page}");
        }
    }

    #[test]
    fn one_odd_member_does_not_hide_the_others() {
        for (good, odd) in [("5433", "99999"), ("7, \"pending", "\"seven\", \"pending"), ("\"running\"", "1")] {
            let members = Members::parse(PAGE.replacen(good, odd, 1).as_bytes()).unwrap();
            let names: Vec<_> = members.found.iter().map(|found| &*found.name).collect();
            assert_eq!(names, ["b", "c"], "{odd}");
            assert!(members.odd.unwrap().starts_with("member 1: "), "{odd}");
        }
        assert_eq!(Members::parse(PAGE.as_bytes()).unwrap().odd, None);
        let many = vec![r#"{"role": "replica", "host": "h"}"#; 2000].join(",");
        let many = Members::parse(format!("{{\"members\": [{many}]}}").as_bytes()).unwrap();
        assert_eq!(many.found.len(), MOST_MEMBERS);
    }

    #[test]
    fn those_who_are_on_their_way_count() {
        let page = PAGE.replace("\"leader\"", "\"promoted\"").replace("streaming", "in archive recovery");
        let members = Members::parse(page.as_bytes()).unwrap();
        assert_eq!(members.found[0].member.role, MemberRole::Leader);
        assert!(members.found[1].member.serves);
    }
}
