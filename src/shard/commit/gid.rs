//! Names of transactions that are prepared on several shards.
//!
//! A transaction is called `pgweir:<database>:<shard>:<number>`, where the shard is the one that decides, and its part on each other shard
//! bears that name with `:<shard>` behind it: whoever finds a part knows whom to ask. PostgreSQL allows 199 bytes:
//! <https://www.postgresql.org/docs/current/sql-prepare-transaction.html>.

use std::fmt::Write as _;

use crate::shard::map::ShardMap;

/// What all our names begin with.
pub const PREFIX: &str = "pgweir:";
/// The longest name of a database or a shard, in bytes as it is written in a name of a transaction.
pub const LONGEST_NAME: usize = 50;

/// The name of a transaction over several shards.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Gid {
    /// The database, as the configuration calls it.
    pub database: String,
    /// The shard that decides.
    pub decides: String,
    /// A random number: no two transactions have the same.
    pub number: u128,
}

impl Gid {
    /// Reads the name of a part: the transaction, and the shard that the part is on. None for what is not ours.
    #[must_use]
    pub fn of_part(name: &str) -> Option<(Self, String)> {
        let (whole, shard) = name.rsplit_once(':')?;
        let (gid, shard) = (Self::read(whole)?, decode(shard)?);
        // As above.
        (gid.part(&shard) == name).then_some((gid, shard))
    }

    /// Reads the name of a transaction. None for what is not ours.
    #[must_use]
    pub fn read(name: &str) -> Option<Self> {
        let mut parts = name.strip_prefix(PREFIX)?.split(':');
        let (database, decides, number) = (parts.next()?, parts.next()?, parts.next()?);
        let exact = parts.next().is_none() && number.len() == 32;
        let number = u128::from_str_radix(number, 16).ok().filter(|_| exact)?;
        let gid = Self { database: decode(database)?, decides: decode(decides)?, number };
        // Only names that we would write so: nothing else is ours.
        (gid.whole() == name).then_some(gid)
    }

    /// The name of the transaction. It has no quotes or backslashes.
    #[must_use]
    pub fn whole(&self) -> String {
        format!("{PREFIX}{}:{}:{:032x}", encode(&self.database), encode(&self.decides), self.number)
    }

    /// The name of its part on a shard. It has no quotes or backslashes.
    #[must_use]
    pub fn part(&self, shard: &str) -> String {
        format!("{}:{}", self.whole(), encode(shard))
    }
}

/// The names of the database and its shards that are too long to be part of a name.
#[must_use]
pub fn too_long<'a>(database: &'a str, map: &'a ShardMap) -> Vec<&'a str> {
    let names = std::iter::once(database).chain(map.names.iter().map(String::as_str));
    names.filter(|name| encode(name).len() > LONGEST_NAME).collect()
}

/// A name as it can stand between colons and in quotes.
#[must_use]
pub fn encode(name: &str) -> String {
    let mut out = String::with_capacity(name.len());
    for byte in name.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-') {
            out.push(char::from(byte));
        } else {
            // Writing to a String does not fail.
            let _written = write!(out, "%{byte:02x}");
        }
    }
    out
}

fn decode(name: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(name.len());
    let mut rest = name.as_bytes();
    while let [first, more @ ..] = rest {
        if *first == b'%' {
            let digits = more.get(..2).and_then(|digits| std::str::from_utf8(digits).ok())?;
            bytes.push(u8::from_str_radix(digits, 16).ok()?);
            rest = more.get(2..)?;
        } else {
            bytes.push(*first);
            rest = more;
        }
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn names_are_read_as_they_were_written() {
        let gid = Gid { database: "app".into(), decides: "s 1:'%".into(), number: 7 };
        let part = gid.part("s0");
        assert_eq!(part, "pgweir:app:s%201%3a%27%25:00000000000000000000000000000007:s0");
        assert_eq!(Gid::of_part(&part), Some((gid, "s0".to_owned())));
    }

    #[test]
    fn what_others_prepared_is_not_ours() {
        let number = "00000000000000000000000000000007";
        for name in [
            String::new(),
            "pgweir:".to_owned(),
            format!("pgweir:app:s0:{number}"),
            format!("pgweir:app:s0:{number}:s1:s2"),
            format!("pgwei:app:s0:{number}:s1"),
            "pgweir:app:s0:7:s1".to_owned(),
            format!("pgweir:app:s0:{number}0:s1"),
            format!("pgweir:app:s0:+{}:s1", number.get(1..).unwrap()),
            format!("pgweir:%61pp:s0:{number}:s1"),
            format!("pgweir:app:%zz:{number}:s1"),
            format!("pgweir:app:s0:{number}:%731"),
        ] {
            assert_eq!(Gid::of_part(&name), None, "{name}");
        }
    }

    proptest! {
        #[test]
        fn any_names_come_back_and_fit(
            database in ".{0,16}", decides in ".{0,16}", shard in ".{0,16}", number in any::<u128>(),
        ) {
            let gid = Gid { database, decides, number };
            let part = gid.part(&shard);
            prop_assert_eq!(Gid::of_part(&part), Some((gid.clone(), shard.clone())));
            let fits = [&gid.database, &gid.decides, &shard].iter().all(|name| encode(name).len() <= LONGEST_NAME);
            prop_assert!(!fits || part.len() < 200);
        }

        #[test]
        fn nothing_panics(name in ".{0,80}") {
            let _read = (Gid::of_part(&name), Gid::read(&name));
        }
    }
}
