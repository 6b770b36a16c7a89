//! A configuration in the form of our own file: what `pgweir convert` prints.

use super::field::Field;
use super::settings::{self, Setting};
use super::{Config, Database, General, Peer, Server, User, WILDCARD, check};

/// Writes what differs from the defaults, so that [`super::parse`] reads the same configuration back. Passwords are in it.
/// For what is read from pgbouncer.ini, whose databases have one server each.
#[must_use]
pub(super) fn to_toml(config: &Config) -> String {
    let mut text = format!("# Converted from {}.\n", config.path.display());
    for warning in &config.warnings {
        text.push_str(&format!("# {}\n", warning.replace('\n', " ")));
    }
    text.push_str("\n[pgweir]\n");
    let mut general = config.general.clone();
    differing(&mut text, settings::GENERAL, &mut general, &mut General::default());
    differing(&mut text, settings::HEALTH, &mut general.health, &mut General::default().health);
    differing(&mut text, settings::PINNING, &mut general.pinning, &mut General::default().pinning);
    for (name, database) in &config.databases {
        self::database(&mut text, name, database, &config.general);
    }
    if let Some(database) = &config.wildcard {
        self::database(&mut text, WILDCARD, database, &config.general);
    }
    for (name, user) in &config.users {
        text.push_str(&format!("\n[users.{}]\n", check::name(name)));
        differing(&mut text, settings::USER, &mut user.clone(), &mut User::default());
    }
    for (id, peer) in &config.peers {
        text.push_str(&format!("\n[peers.{id}]\n"));
        differing(&mut text, settings::PEER, &mut peer.clone(), &mut Peer::default());
    }
    text
}

fn database(text: &mut String, name: &str, database: &Database, general: &General) {
    text.push_str(&format!("\n[databases.{}]\n", check::name(name)));
    for Server { host, port, dbname, .. } in database.shards.iter().flat_map(|shard| &shard.servers) {
        let mut host = host.to_string();
        text.push_str(&format!("host = {}\nport = {port}\n", Field::Text(&mut host).write()));
        if dbname != name {
            text.push_str(&format!("dbname = {}\n", Field::Text(&mut dbname.clone()).write()));
        }
    }
    let mut inherited = Database::inherited(name, general);
    let mut database = database.clone();
    differing(text, settings::DATABASE, &mut database, &mut inherited);
    differing(text, settings::HEALTH, &mut database.health, &mut inherited.health);
    differing(text, settings::PINNING, &mut database.pinning, &mut inherited.pinning);
}

/// A line for each setting that is not what it is in `base`.
fn differing<T>(text: &mut String, table: &[Setting<T>], target: &mut T, base: &mut T) {
    for setting in table {
        let value = setting.written(target);
        if value != setting.written(base) {
            text.push_str(&format!("{} = {value}\n", setting.name));
        }
    }
}
