//! What is known of names, for how long, and what changed. Pure: the time is a parameter, look-ups are made elsewhere.
//!
//! ```text
//!               ask                    answered                 its time is over: ask, refresh, serial
//!    (unknown) ─────▶ being looked up ─────────▶ known or failed ─────────▶ being looked up again
//!                                                        ▲                           │
//!                                                        └────────── answered ───────┘
//! ```
//!
//! Two kinds of failure are told apart. That there is no such name is an answer: it holds until its time is over, and nobody is sent to
//! the addresses of before. When no answer can be had, the addresses of before are as good as they were, and stay in use. Neither
//! parts with connections that are open; only another answer does.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;
use std::time::{Duration, Instant};

/// In the background a name is looked up this often at most, however short it is to be known.
const SHORTEST_REST: Duration = Duration::from_secs(1);

/// Why a name has no addresses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Failure {
    /// There is no such name, or it has none: what the name servers say.
    NoName(String),
    /// It could not be found out.
    Trouble(String),
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoName(why) | Self::Trouble(why) => f.write_str(why),
        }
    }
}

/// What a look-up found of one family of addresses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Part {
    /// These.
    Found(Vec<IpAddr>),
    /// That there are none; why.
    Nothing(String),
    /// Nothing: there was no answer; why.
    Trouble(String),
}

/// How long things are known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Times {
    /// Addresses. How long their records are good is not asked for, as in PgBouncer: with a name whose answers differ from one time to the
    /// next, each look-up closes connections, and this setting is how to have fewer.
    pub found: Duration,
    /// Failures.
    pub failed: Duration,
}

/// Answer to [`Cache::ask`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Word {
    /// The addresses, in the order in which to try them.
    Addresses(Vec<IpAddr>),
    /// There are none.
    Failed(Failure),
    /// A look-up is under way, or begins now: [`Cache::answer_since`] knows its outcome.
    Wait {
        /// How many answers there were before.
        seen: u64,
        /// Whether [`Cache::old`] has something, if the answer takes long.
        has_old: bool,
    },
}

/// A row of SHOW DNS_HOSTS.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostRow {
    /// The name.
    pub name: String,
    /// How long what is known of it still holds.
    pub ttl: Duration,
    /// The addresses in use.
    pub addresses: Vec<IpAddr>,
}

/// A row of SHOW DNS_ZONES.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ZoneRow {
    /// The zone.
    pub name: String,
    /// Its serial number, once it was asked for.
    pub serial: Option<u32>,
    /// Known names in it.
    pub names: usize,
}

#[derive(Debug)]
struct Entry {
    /// Those of the last look-up that found any.
    addresses: Vec<IpAddr>,
    /// Counts to the address that is tried first.
    turn: usize,
    /// Its addresses are not used in turn: all connections go to one of them.
    stays: bool,
    /// Of a name that stays, the address that connections go to.
    chosen: Option<IpAddr>,
    /// Why the last look-up found none.
    failure: Option<Failure>,
    /// When the last look-up ended, and until when it counts.
    checked: Instant,
    until: Instant,
    under_way: bool,
    answers: u64,
}

impl Entry {
    fn new(now: Instant) -> Self {
        Self {
            addresses: Vec::new(),
            turn: 0,
            stays: false,
            chosen: None,
            failure: None,
            checked: now,
            until: now,
            under_way: false,
            answers: 0,
        }
    }

    /// Whether the addresses of the last success may be used.
    fn has_usable(&self) -> bool {
        !self.addresses.is_empty() && !matches!(self.failure, Some(Failure::NoName(_)))
    }

    /// The addresses, beginning with the one whose turn it is. Those of IPv4 and of IPv6 take turns among themselves, and the family of
    /// the first record comes first: where one family leads nowhere, every other connection would go there, and it is often the same
    /// servers twice. A name that stays begins with the address it has chosen, or with its first.
    fn take_turn(&mut self) -> Vec<IpAddr> {
        if self.stays {
            let others = self.addresses.iter().filter(|a| Some(**a) != self.chosen);
            return self.chosen.iter().chain(others).copied().collect();
        }
        let is_v4 = self.addresses.first().is_some_and(IpAddr::is_ipv4);
        let (mut addresses, mut others): (Vec<IpAddr>, Vec<IpAddr>) =
            self.addresses.iter().partition(|a| a.is_ipv4() == is_v4);
        for family in [&mut addresses, &mut others] {
            let first = self.turn.checked_rem(family.len()).unwrap_or(0);
            family.rotate_left(first);
        }
        self.turn = self.turn.wrapping_add(1);
        addresses.append(&mut others);
        addresses
    }

    fn word(&mut self) -> Result<Vec<IpAddr>, Failure> {
        match &self.failure {
            _ if self.has_usable() => Ok(self.take_turn()),
            Some(failure) => Err(failure.clone()),
            None => Err(Failure::Trouble("it has not been looked up yet".to_owned())),
        }
    }

    /// When it is looked up again unasked: not if it never had an address, for then no connection can hang on it.
    fn due(&self) -> Option<Instant> {
        let rested = self.checked.checked_add(SHORTEST_REST)?;
        (!self.under_way && !self.addresses.is_empty()).then(|| self.until.max(rested))
    }
}

/// What is known of names.
#[derive(Debug, Default)]
pub struct Cache {
    entries: BTreeMap<String, Entry>,
    /// Serial numbers of the zones that the names are in.
    zones: BTreeMap<String, Option<u32>>,
    /// Names that the configuration uses: others are not looked up unasked.
    used: BTreeSet<String>,
    /// Those whose addresses are not used in turn.
    staying: BTreeSet<String>,
    /// Look-ups that are to begin.
    wanted: Vec<String>,
}

impl Cache {
    // Getters.

    /// Whether a connection that was made to `name` leads to an address which the name no longer has. `address` is that of the socket's
    /// other end, which looks another than the record where that is an address of IPv4 in IPv6, and is another where it is 0.0.0.0 or ::
    /// (the kernel connects these to itself).
    #[must_use]
    pub fn is_gone(&self, name: &str, address: IpAddr) -> bool {
        let address = address.to_canonical();
        let leads_there = |record: &IpAddr| {
            let record = record.to_canonical();
            record == address || record.is_unspecified()
        };
        self.entries.get(name).is_some_and(|e| match &e.chosen {
            // What a name that stays has left is as good as gone.
            Some(chosen) => !leads_there(chosen),
            None => !e.addresses.is_empty() && !e.addresses.iter().any(leads_there),
        })
    }

    /// Whether the name has no usable addresses yet, and a look-up is under way.
    #[must_use]
    pub fn is_awaited(&self, name: &str) -> bool {
        self.entries.get(name).is_some_and(|e| e.under_way && !e.has_usable())
    }

    /// When the next name is to be looked up unasked.
    #[must_use]
    pub fn next(&self) -> Option<Instant> {
        self.entries.iter().filter(|(name, _)| self.used.contains(*name)).filter_map(|(_, e)| e.due()).min()
    }

    /// All names.
    #[must_use]
    pub fn hosts(&self, now: Instant) -> Vec<HostRow> {
        let row = |(name, e): (&String, &Entry)| HostRow {
            name: name.clone(),
            ttl: e.until.saturating_duration_since(now),
            addresses: if e.has_usable() { e.addresses.clone() } else { Vec::new() },
        };
        self.entries.iter().map(row).collect()
    }

    /// All zones.
    #[must_use]
    pub fn zones(&self) -> Vec<ZoneRow> {
        let names = |zone: &str| self.entries.keys().filter(|name| zone_of(name) == Some(zone)).count();
        let row = |(name, serial): (&String, &Option<u32>)| ZoneRow {
            name: name.clone(),
            serial: *serial,
            names: names(name),
        };
        self.zones.iter().map(row).collect()
    }

    /// Look-ups that have begun or are to begin.
    #[must_use]
    pub fn under_way(&self) -> usize {
        self.entries.values().filter(|e| e.under_way).count()
    }

    // Handlers.

    /// Someone wants to connect to `name`.
    pub fn ask(&mut self, name: &str, now: Instant) -> Word {
        let entry = self.entry(name, now);
        let fresh = entry.answers > 0 && now < entry.until;
        // While a server that was in trouble is asked again, nobody waits for it.
        let in_trouble = matches!(entry.failure, Some(Failure::Trouble(_))) && entry.has_usable();
        if (fresh && !entry.under_way) || (entry.under_way && in_trouble) {
            return entry.word().map_or_else(Word::Failed, Word::Addresses);
        }
        let word = Word::Wait { seen: entry.answers, has_old: entry.has_usable() };
        self.want(name);
        if in_trouble { self.old(name).map_or(word, Word::Addresses) } else { word }
    }

    /// The outcome of a look-up, if one has ended after there were `seen` answers.
    pub fn answer_since(&mut self, name: &str, seen: u64) -> Option<Result<Vec<IpAddr>, Failure>> {
        self.entries.get_mut(name).filter(|e| e.answers != seen).map(Entry::word)
    }

    /// The addresses of before, while a look-up is under way.
    pub fn old(&mut self, name: &str) -> Option<Vec<IpAddr>> {
        self.entries.get_mut(name).filter(|e| e.has_usable()).map(Entry::take_turn)
    }

    /// A connection to the name was made, at this address. True if it is a name that stays and went elsewhere until now: what leads there
    /// is then gone.
    pub fn reached(&mut self, name: &str, address: IpAddr) -> bool {
        let entry = self.entries.get_mut(name).filter(|e| e.stays && e.addresses.contains(&address));
        let Some(entry) = entry else { return false };
        entry.chosen.replace(address).is_some_and(|before| before != address)
    }

    /// A look-up has ended, with what it found of IPv4 and of IPv6. Says which addresses the name no longer has.
    pub fn answered(&mut self, name: &str, parts: (Part, Part), times: Times, now: Instant) -> Vec<IpAddr> {
        let Some(entry) = self.entries.get_mut(name) else { return Vec::new() };
        entry.under_way = false;
        entry.answers = entry.answers.wrapping_add(1);
        entry.checked = now;
        let later = |time: Duration| now.checked_add(time).unwrap_or(now);
        match combine(parts, &entry.addresses) {
            Ok(found) => {
                entry.failure = None;
                entry.until = later(times.found);
                let gone: Vec<_> = entry.addresses.iter().copied().filter(|a| !found.contains(a)).collect();
                // Name servers shuffle their answers: only what is another set gets another order.
                if !gone.is_empty() || found.len() != entry.addresses.len() {
                    entry.addresses = found;
                }
                entry.chosen = entry.chosen.filter(|chosen| entry.addresses.contains(chosen));
                gone
            }
            Err(failure) => {
                // Where there was no such name, the addresses from before that do not come back for want of an answer.
                let stands = matches!((&entry.failure, &failure), (Some(Failure::NoName(_)), Failure::Trouble(_)));
                if !stands {
                    entry.failure = Some(failure);
                }
                entry.until = later(times.failed);
                Vec::new()
            }
        }
    }

    /// The names that are to be looked up now; [`Self::answered`] follows for each.
    pub fn take_wanted(&mut self, now: Instant) -> Vec<String> {
        let due =
            self.entries.iter().filter(|(name, e)| self.used.contains(*name) && e.due().is_some_and(|at| at <= now));
        let due: Vec<String> = due.map(|(name, _)| name.clone()).collect();
        due.iter().for_each(|name| self.want(name));
        std::mem::take(&mut self.wanted)
    }

    /// A zone has this serial number. If it is news, all its names are looked up again; so they are after the first time, for they may
    /// have changed before it. True if there are such names.
    pub fn serial(&mut self, zone: &str, serial: u32) -> bool {
        let Some(known) = self.zones.get_mut(zone) else { return false };
        // Serial numbers go round: RFC 1982, section 3.2. Older ones come from servers that lag behind.
        if known.is_some_and(|known| matches!(serial.wrapping_sub(known), 0 | 0x8000_0000..)) {
            return false;
        }
        *known = Some(serial);
        let names: Vec<String> = self.entries.keys().filter(|name| zone_of(name) == Some(zone)).cloned().collect();
        names.iter().for_each(|name| self.want(name));
        !names.is_empty()
    }

    /// The configuration uses these names from now on, and no others. What is known of others is forgotten. Those of them that are
    /// `staying` do not use their addresses in turn.
    pub fn use_only(&mut self, names: BTreeSet<String>, staying: BTreeSet<String>) {
        self.entries.retain(|name, e| names.contains(name) || e.under_way);
        self.zones.retain(|zone, _| self.entries.keys().any(|name| zone_of(name) == Some(zone)));
        for (name, entry) in &mut self.entries {
            entry.stays = staying.contains(name);
            entry.chosen = entry.chosen.filter(|_| entry.stays);
        }
        (self.used, self.staying) = (names, staying);
    }

    /// Other settings count from now on: nothing is known for longer than they say. `all`: nothing counts any more at all, for other
    /// name servers are asked.
    pub fn shorten(&mut self, times: Times, all: bool, now: Instant) {
        for entry in self.entries.values_mut() {
            let most = if entry.failure.is_some() { times.failed } else { times.found };
            let until = entry.checked.checked_add(most).unwrap_or(now);
            entry.until = if all { now } else { entry.until.min(until) };
            if all {
                // Looked up at once, unasked.
                entry.checked = now.checked_sub(SHORTEST_REST).unwrap_or(now);
            }
        }
    }

    fn entry(&mut self, name: &str, now: Instant) -> &mut Entry {
        if !self.entries.contains_key(name)
            && let Some(zone) = zone_of(name)
        {
            self.zones.entry(zone.to_owned()).or_default();
        }
        let stays = self.staying.contains(name);
        self.entries.entry(name.to_owned()).or_insert_with(|| Entry { stays, ..Entry::new(now) })
    }

    /// One look-up of a name at a time.
    fn want(&mut self, name: &str) {
        if let Some(entry) = self.entries.get_mut(name).filter(|e| !e.under_way) {
            entry.under_way = true;
            self.wanted.push(name.to_owned());
        }
    }
}

/// The zone of a name as PgBouncer has it: what follows the first dot.
fn zone_of(name: &str) -> Option<&str> {
    name.split_once('.').map(|(_, zone)| zone).filter(|zone| !zone.is_empty())
}

/// What both families come to. Where one of them is in the dark, it has what it had: half an answer must not look as if the other half
/// were gone.
fn combine((v4, v6): (Part, Part), old: &[IpAddr]) -> Result<Vec<IpAddr>, Failure> {
    let kept = |v4: bool| old.iter().copied().filter(move |a| a.is_ipv4() == v4);
    let mut found: Vec<IpAddr> = match (v4, v6) {
        (Part::Found(v4), Part::Found(v6)) => v4.into_iter().chain(v6).collect(),
        (Part::Found(v4), Part::Trouble(_)) => v4.into_iter().chain(kept(false)).collect(),
        (Part::Trouble(_), Part::Found(v6)) => kept(true).chain(v6).collect(),
        (Part::Found(one), Part::Nothing(_)) | (Part::Nothing(_), Part::Found(one)) => one,
        (Part::Trouble(why), _) | (_, Part::Trouble(why)) => return Err(Failure::Trouble(why)),
        (Part::Nothing(why), Part::Nothing(_)) => return Err(Failure::NoName(why)),
    };
    let mut seen = BTreeSet::new();
    found.retain(|address| seen.insert(*address));
    if found.is_empty() { Err(Failure::NoName("it has no addresses".to_owned())) } else { Ok(found) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TIMES: Times = Times { found: Duration::from_secs(15), failed: Duration::from_secs(10) };

    fn ip(last: u8) -> IpAddr {
        IpAddr::from([10, 0, 0, last])
    }

    fn v6(last: u16) -> IpAddr {
        IpAddr::from([0xfd00, 0, 0, 0, 0, 0, 0, last])
    }

    fn found(last: &[u8]) -> (Part, Part) {
        (Part::Found(last.iter().map(|l| ip(*l)).collect()), nothing())
    }

    fn nothing() -> Part {
        Part::Nothing("NXDOMAIN".to_owned())
    }

    fn trouble() -> Part {
        Part::Trouble("SERVFAIL".to_owned())
    }

    fn start() -> Instant {
        crate::clock::now()
    }

    /// A cache in which `db.example.com` is known to have these.
    fn knowing(last: &[u8], now: Instant) -> Cache {
        let mut c = Cache::default();
        c.use_only(BTreeSet::from(["db.example.com".to_owned()]), BTreeSet::new());
        assert_eq!(c.ask("db.example.com", now), Word::Wait { seen: 0, has_old: false });
        assert_eq!(c.take_wanted(now), ["db.example.com"]);
        assert!(c.answered("db.example.com", found(last), TIMES, now).is_empty());
        c
    }

    #[test]
    fn addresses_are_used_in_turn_until_their_time_is_over() {
        let now = start();
        let mut c = knowing(&[1, 2, 3], now);
        let firsts: Vec<_> = (0..4)
            .map(|_| match c.ask("db.example.com", now + TIMES.found / 2) {
                Word::Addresses(all) => {
                    assert_eq!(all.len(), 3, "the others are tried behind it");
                    all[0]
                }
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!(firsts, [ip(1), ip(2), ip(3), ip(1)]);
        let over = now + TIMES.found;
        assert_eq!(c.ask("db.example.com", over), Word::Wait { seen: 1, has_old: true });
        assert_eq!(c.ask("db.example.com", over), Word::Wait { seen: 1, has_old: true });
        assert_eq!(c.take_wanted(over), ["db.example.com"], "two who ask make one look-up");
        assert!(c.take_wanted(over).is_empty());
        assert_eq!(c.answer_since("db.example.com", 1), None);
        assert!(c.old("db.example.com").is_some());
        // Another order is no other answer.
        assert!(c.answered("db.example.com", found(&[3, 1, 2]), TIMES, over).is_empty());
        assert_eq!(c.answer_since("db.example.com", 1).unwrap().unwrap()[0], ip(3), "the turn goes on");
    }

    #[test]
    fn a_name_that_stays_leads_to_one_address_until_another_is_reached() {
        let now = start();
        let name = "db.example.com";
        let mut c = knowing(&[1, 2, 3], now);
        c.use_only(BTreeSet::from([name.to_owned()]), BTreeSet::from([name.to_owned()]));
        let order = |c: &mut Cache| match c.ask(name, now) {
            Word::Addresses(all) => all,
            other => panic!("{other:?}"),
        };
        for _ in 0..3 {
            assert_eq!(order(&mut c), [ip(1), ip(2), ip(3)]);
            assert!(!c.reached(name, ip(1)));
        }
        assert!(c.is_gone(name, ip(2)) && !c.is_gone(name, ip(1)));
        // The first one is down.
        assert!(c.reached(name, ip(2)));
        assert_eq!(order(&mut c), [ip(2), ip(1), ip(3)]);
        assert!(c.is_gone(name, ip(1)) && !c.is_gone(name, ip(2)));
        assert!(!c.reached(name, ip(9)), "no address of it");
        // It loses the one that it stayed with.
        assert_eq!(c.answered(name, found(&[1, 3]), TIMES, now), [ip(2)]);
        assert_eq!(order(&mut c), [ip(1), ip(3)]);
        assert!(c.is_gone(name, ip(2)) && !c.is_gone(name, ip(3)));
        // A reload ends it.
        c.reached(name, ip(3));
        c.use_only(BTreeSet::from([name.to_owned()]), BTreeSet::new());
        assert!(!c.is_gone(name, ip(1)) && !c.reached(name, ip(1)));
    }

    #[test]
    fn one_family_takes_turns_and_the_other_stands_behind_it() {
        let now = start();
        let mut c = knowing(&[1], now);
        let both = (Part::Found(vec![ip(1), ip(2)]), Part::Found(vec![v6(1), v6(2)]));
        c.answered("db.example.com", both, TIMES, now);
        let mut turns = || match c.ask("db.example.com", now) {
            Word::Addresses(all) => all,
            other => panic!("{other:?}"),
        };
        assert_eq!(turns(), [ip(1), ip(2), v6(1), v6(2)]);
        assert_eq!(turns(), [ip(2), ip(1), v6(2), v6(1)]);
        assert_eq!(turns(), [ip(1), ip(2), v6(1), v6(2)]);
    }

    #[test]
    fn an_address_is_known_by_any_of_its_looks() {
        let now = start();
        let gone_of = |record: &str, address: &str| {
            let mut c = knowing(&[1], now);
            let (record, nothing): (IpAddr, _) = (record.parse().unwrap(), nothing());
            let part = Part::Found(vec![record]);
            c.answered("db.example.com", if record.is_ipv4() { (part, nothing) } else { (nothing, part) }, TIMES, now);
            c.is_gone("db.example.com", address.parse().unwrap())
        };
        // What getpeername says need not be what was dialled.
        assert!(!gone_of("::ffff:10.0.0.7", "10.0.0.7"));
        assert!(!gone_of("10.0.0.7", "::ffff:10.0.0.7"));
        assert!(!gone_of("0.0.0.0", "127.0.0.1"));
        assert!(!gone_of("::", "::1"));
        assert!(gone_of("::ffff:10.0.0.7", "10.0.0.8"));
        assert!(gone_of("10.0.0.7", "10.0.0.1"));
    }

    #[test]
    fn a_name_is_looked_up_again_unasked_and_what_is_gone_is_told() {
        let now = start();
        let mut c = knowing(&[1, 2], now);
        assert_eq!(c.next(), Some(now + TIMES.found));
        assert!(c.take_wanted(now + TIMES.found / 2).is_empty());
        let later = now + TIMES.found;
        assert_eq!(c.take_wanted(later), ["db.example.com"]);
        assert_eq!(c.next(), None, "it is under way");
        assert_eq!(c.answered("db.example.com", found(&[2, 4]), TIMES, later), [ip(1)]);
        assert!(c.is_gone("db.example.com", ip(1)));
        assert!(!c.is_gone("db.example.com", ip(2)) && !c.is_gone("10.0.0.9", ip(1)));
        c.use_only(BTreeSet::new(), BTreeSet::new());
        assert_eq!((c.next(), c.hosts(later), c.zones()), (None, vec![], vec![]));
    }

    #[test]
    fn that_there_is_no_such_name_is_remembered_and_closes_nothing() {
        let now = start();
        let mut c = knowing(&[1], now);
        let later = now + TIMES.found;
        c.take_wanted(later);
        assert!(c.answered("db.example.com", (nothing(), nothing()), TIMES, later).is_empty());
        assert_eq!(c.ask("db.example.com", later), Word::Failed(Failure::NoName("NXDOMAIN".to_owned())));
        assert!(!c.is_gone("db.example.com", ip(1)), "who is connected stays");
        assert!(c.hosts(later)[0].addresses.is_empty());
        let over = later + TIMES.failed;
        assert_eq!(c.ask("db.example.com", over), Word::Wait { seen: 2, has_old: false });
        assert!(c.is_awaited("db.example.com"));
        // An answer that cannot be had does not bring the old ones back.
        c.answered("db.example.com", (trouble(), trouble()), TIMES, over);
        assert_eq!(c.ask("db.example.com", over), Word::Failed(Failure::NoName("NXDOMAIN".to_owned())));
        // The name comes back with other addresses.
        assert_eq!(c.answered("db.example.com", found(&[2]), TIMES, over), [ip(1)]);
    }

    #[test]
    fn what_was_known_is_used_while_no_answer_can_be_had() {
        let now = start();
        let mut c = knowing(&[1], now);
        let later = now + TIMES.found;
        c.take_wanted(later);
        c.answered("db.example.com", (trouble(), nothing()), TIMES, later);
        assert_eq!(c.ask("db.example.com", later), Word::Addresses(vec![ip(1)]));
        let over = later + TIMES.failed;
        assert_eq!(c.ask("db.example.com", over), Word::Addresses(vec![ip(1)]), "nobody waits for a server in trouble");
        assert_eq!(c.take_wanted(over), ["db.example.com"], "but it is asked");
        assert_eq!(c.ask("db.example.com", over), Word::Addresses(vec![ip(1)]));
        // Of a name that nothing is known of, nothing can be used.
        c.ask("other", over);
        c.answered("other", (trouble(), trouble()), TIMES, over);
        assert_eq!(c.ask("other", over), Word::Failed(Failure::Trouble("SERVFAIL".to_owned())));
        assert_eq!(c.ask("other", over + TIMES.failed), Word::Wait { seen: 1, has_old: false });
    }

    #[test]
    fn half_an_answer_takes_nothing_away() {
        let old = [ip(1), v6(1)];
        let some = |a: IpAddr| Part::Found(vec![a, a]);
        assert_eq!(combine((some(ip(2)), trouble()), &old).unwrap(), [ip(2), v6(1)]);
        assert_eq!(combine((trouble(), some(v6(2))), &old).unwrap(), [ip(1), v6(2)]);
        assert_eq!(combine((some(ip(2)), nothing()), &old).unwrap(), [ip(2)]);
        assert_eq!(combine((trouble(), nothing()), &old), Err(Failure::Trouble("SERVFAIL".to_owned())));
        assert_eq!(combine((nothing(), nothing()), &old), Err(Failure::NoName("NXDOMAIN".to_owned())));
        assert!(combine((Part::Found(vec![]), nothing()), &old).is_err());
    }

    #[test]
    fn zero_means_every_time() {
        let now = start();
        let mut c = knowing(&[1], now);
        c.answered("db.example.com", found(&[1]), Times { found: Duration::ZERO, ..TIMES }, now);
        assert_eq!(c.ask("db.example.com", now), Word::Wait { seen: 2, has_old: true });
        c.take_wanted(now);
        c.answered("db.example.com", found(&[1]), Times { found: Duration::ZERO, ..TIMES }, now);
        assert_eq!(c.answer_since("db.example.com", 2), Some(Ok(vec![ip(1)])), "who waited has the answer");
        assert_eq!(c.next(), Some(now + SHORTEST_REST), "unasked no more than once a second");
    }

    #[test]
    fn a_new_serial_number_of_a_zone_makes_its_names_be_looked_up() {
        let now = start();
        let mut c = knowing(&[1], now);
        assert_eq!(c.zones(), [ZoneRow { name: "example.com".to_owned(), serial: None, names: 1 }]);
        assert!(!c.serial("other.com", 7));
        for (serial, news) in [(7, true), (7, false), (8, true), (6, false), (0xffff_ff00, false), (0x8000_0007, true)]
        {
            assert_eq!(c.serial("example.com", serial), news, "{serial}");
            assert_eq!(c.take_wanted(now).len(), usize::from(news));
            c.answered("db.example.com", found(&[1]), TIMES, now);
        }
        assert!(c.serial("example.com", 3), "the numbers go round");
        assert_eq!((zone_of("db"), zone_of("db."), zone_of("a.b.c.")), (None, None, Some("b.c.")));
    }

    #[test]
    fn other_settings_count_at_once() {
        let now = start();
        let mut c = knowing(&[1], now);
        let shorter = Times { found: Duration::from_secs(3), failed: Duration::ZERO };
        c.shorten(shorter, false, now);
        assert_eq!(c.next(), Some(now + shorter.found));
        c.shorten(TIMES, true, now);
        assert_eq!(c.take_wanted(now), ["db.example.com"]);
    }

    #[derive(Debug, Clone)]
    enum Op {
        Ask(usize),
        Answer(usize, (Part, Part)),
        Pass(u64),
        Serial(u32),
        Shorten(bool),
    }

    fn part(v4: bool) -> impl Strategy<Value = Part> {
        let address = move |n: u8| if v4 { ip(n) } else { v6(n.into()) };
        prop_oneof![
            3 => prop::collection::vec(0..4_u8, 0..4).prop_map(move |all| Part::Found(all.into_iter().map(address).collect())),
            1 => Just(nothing()),
            1 => Just(trouble()),
        ]
    }

    fn op() -> impl Strategy<Value = Op> {
        prop_oneof![
            4 => (0..3_usize).prop_map(Op::Ask),
            4 => (0..3_usize, (part(true), part(false))).prop_map(|(name, parts)| Op::Answer(name, parts)),
            2 => (0..20_u64).prop_map(Op::Pass),
            1 => any::<u32>().prop_map(Op::Serial),
            1 => any::<bool>().prop_map(Op::Shorten),
        ]
    }

    proptest! {
        #[test]
        fn whoever_waits_is_answered_and_nobody_is_sent_elsewhere(ops in prop::collection::vec(op(), 1..80)) {
            const NAMES: [&str; 3] = ["a.zone", "b.zone", "c"];
            let mut now = start();
            let mut c = Cache::default();
            c.use_only(NAMES.iter().take(2).map(|n| (*n).to_owned()).collect(), BTreeSet::new());
            let mut under_way = BTreeSet::new();
            let mut last: BTreeMap<&str, Vec<IpAddr>> = BTreeMap::new();
            for op in ops {
                match op {
                    Op::Ask(at) => {
                        let name = NAMES[at];
                        match c.ask(name, now) {
                            Word::Addresses(mut all) => {
                                let mut known = last.get(name).cloned().unwrap_or_default();
                                all.sort();
                                known.sort();
                                prop_assert_eq!(all, known, "all of the last answer and no others");
                            }
                            Word::Failed(Failure::Trouble(_)) => prop_assert!(!last.contains_key(name)),
                            Word::Failed(Failure::NoName(_)) => {}
                            Word::Wait { seen, has_old } => {
                                prop_assert_eq!(c.answer_since(name, seen), None);
                                prop_assert_eq!(c.old(name).is_some(), has_old);
                            }
                        }
                    }
                    Op::Answer(at, parts) => {
                        let name = NAMES[at];
                        if !under_way.remove(name) {
                            continue;
                        }
                        let seen = c.entries[name].answers;
                        let old = last.get(name).cloned().unwrap_or_default();
                        let gone = c.answered(name, parts.clone(), TIMES, now);
                        prop_assert!(c.answer_since(name, seen).is_some(), "whoever waits is answered");
                        if let Ok(new) = combine(parts, &old) {
                            for address in &old {
                                prop_assert_eq!(gone.contains(address), !new.contains(address));
                                prop_assert_eq!(c.is_gone(name, *address), !new.contains(address));
                            }
                            last.insert(name, new);
                        } else {
                            prop_assert!(gone.is_empty());
                        }
                    }
                    Op::Pass(seconds) => now += Duration::from_secs(seconds),
                    Op::Serial(serial) => drop(c.serial("zone", serial)),
                    Op::Shorten(all) => c.shorten(TIMES, all, now),
                }
                for name in c.take_wanted(now) {
                    prop_assert!(under_way.insert(NAMES.into_iter().find(|n| *n == name).unwrap()), "one look-up at a time");
                }
                prop_assert_eq!(c.under_way(), under_way.len());
                prop_assert!(c.next().is_none_or(|at| at > now), "what is due has begun");
                for row in c.hosts(now) {
                    prop_assert!(row.ttl <= TIMES.found);
                }
            }
        }
    }
}
