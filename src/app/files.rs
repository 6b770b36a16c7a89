//! The files that a configuration names: what is in those that are read, and whether the others could be written.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nix::unistd::{AccessFlags, access};
use sha2::{Digest, Sha256};

use super::{doubts, process};
use crate::auth::external::{Built, External};
use crate::auth::hba::{Certificates, Files, Given, Maps, Mistake, Rules};
use crate::auth::ldap::LdapSettings;
use crate::auth::secret::Secret;
use crate::auth::userlist::Userlist;
use crate::config::tls::SslMode;
use crate::config::{AuthType, Config, General};
use crate::net::dns::files::ResolvConf;
use crate::net::listen;
use crate::net::tls::{Acceptor, Connector, Fault};

/// What is in the files.
#[derive(Debug)]
pub struct Content {
    /// The users of the auth file and of `[users]`.
    pub list: Userlist,
    /// What was accepted but is likely a mistake.
    pub warnings: Vec<String>,
    /// Of `auth_hba_file`.
    pub rules: Rules,
    /// Of `auth_ident_file`.
    pub maps: Maps,
    /// Of `client_tls_*`; none where TLS is off.
    pub acceptor: Option<Acceptor>,
    /// Of `server_tls_*`.
    pub connector: Connector,
    /// Whom `auth_type` says to ask, beside what is stored.
    pub external: Option<External>,
    /// Each file by its setting, with a digest of its content and of that of the files it includes.
    pub digests: Digests,
}

type Digests = BTreeMap<&'static str, (PathBuf, [u8; 32])>;

/// Reads all files that are to be read.
///
/// # Errors
/// Every mistake of all of them at once, each with its place: in the file, or of the setting that names it. Never with a password in it.
pub fn read(config: &Config) -> Result<Content, Vec<String>> {
    let disk = [Disk::default(), Disk::default()];
    let mut warnings = Vec::new();
    let list = users(config, &mut warnings);
    let made = (list, hba(config, &disk), tls(config), external(config), resolv_conf(config));
    let (list, (rules, maps), (acceptor, connector), external) = match made {
        (Ok(list), Ok(rules), Ok(tls), Ok(external), Ok(())) => (list, rules, tls, external),
        (list, rules, tls, external, names) => {
            let mistakes = [list.err(), rules.err(), tls.err(), external.err(), names.err()];
            return Err(mistakes.into_iter().flatten().flatten().collect());
        }
    };
    doubts::of(config, &list, &mut warnings);
    let digests = digests(&config.general, disk);
    Ok(Content { list, warnings, rules, maps, acceptor, connector, external, digests })
}

/// What keeps the files and sockets that are to be written from being so. Nothing is written, and no process that runs is minded.
/// `managed`: the sockets are there already and are the service manager's, so that none is made.
#[must_use]
pub fn unwritable(config: &Config, managed: bool) -> Vec<String> {
    let General { logfile, pidfile, unix_socket_dir, unix_socket_group, listen_port, .. } = &config.general;
    let mut mistakes = Vec::new();
    let mut tell = |setting: &str, why: Option<String>| {
        mistakes.extend(why.map(|why| config.places.mistake(setting, why).to_string()));
    };
    let named =
        |setting: &str, path: &Path, why: Option<String>| why.map(|why| format!("{setting} {}: {why}", path.display()));
    if let Some(path) = logfile {
        tell("logfile", named("logfile", path, unappendable(path)));
    }
    if let Some(path) = pidfile {
        tell("pidfile", named("pidfile", path, unfit_for_pid(path)));
    }
    let on_disk = |dir: &&PathBuf| !managed && !dir.as_os_str().as_bytes().starts_with(b"@");
    if let Some(directory) = unix_socket_dir.as_ref().filter(on_disk) {
        let path = listen::unix_path(directory, *listen_port);
        let why = match nix::sys::socket::UnixAddr::new(&path) {
            Ok(_) => no_new_files_in(directory),
            Err(_) => Some(format!("the name of the socket in it is too long: {}", path.display())),
        };
        tell("unix_socket_dir", named("unix_socket_dir", directory, why));
        if let Some(group) = unix_socket_group {
            tell("unix_socket_group", process::group(group).err());
        }
    }
    mistakes
}

/// Why a file cannot be written to at its end.
fn unappendable(path: &Path) -> Option<String> {
    match fs::metadata(path) {
        Ok(found) if found.is_dir() => Some("it is a directory".to_owned()),
        Ok(_) => access(path, AccessFlags::W_OK)
            .err()
            .map(|why| format!("cannot write to the file: {}", io::Error::from(why))),
        Err(why) if why.kind() == io::ErrorKind::NotFound => no_new_files_in(path.parent().unwrap_or(Path::new("/"))),
        Err(why) => Some(format!("cannot open the file: {why}")),
    }
}

/// Why a pidfile cannot be made, or made anew in the place of an old one.
fn unfit_for_pid(path: &Path) -> Option<String> {
    match fs::read_to_string(path) {
        Ok(text) if text.trim().parse::<u32>().is_err() => {
            Some("it holds no number: is it a pidfile at all?".to_owned())
        }
        Err(why) if why.kind() != io::ErrorKind::NotFound => Some(format!("cannot read the file: {why}")),
        _ => no_new_files_in(path.parent().unwrap_or(Path::new("/"))),
    }
}

/// Why no file can be made in a directory.
fn no_new_files_in(directory: &Path) -> Option<String> {
    // The name of a file alone is one in the working directory.
    let directory = if directory.as_os_str().is_empty() { Path::new(".") } else { directory };
    let shown = directory.display();
    match fs::metadata(directory) {
        Ok(found) if found.is_dir() => access(directory, AccessFlags::W_OK | AccessFlags::X_OK)
            .err()
            .map(|why| format!("cannot make files in the directory {shown}: {}", io::Error::from(why))),
        Ok(_) => Some(format!("{shown} is no directory")),
        Err(why) if why.kind() == io::ErrorKind::NotFound => Some(format!("there is no directory {shown}")),
        Err(why) => Some(format!("cannot look into the directory {shown}: {why}")),
    }
}

/// The files that settings name, as they are now; what cannot be read is left out, and was a mistake where it is needed.
fn digests(general: &General, [hba, ident]: [Disk; 2]) -> Digests {
    let (client, server) = (&general.client_tls, &general.server_tls);
    let named = [
        ("auth_file", &general.auth_file),
        ("client_tls_ca_file", &client.ca_file),
        ("client_tls_cert_file", &client.cert_file),
        ("client_tls_key_file", &client.key_file),
        ("server_tls_ca_file", &server.ca_file),
        ("server_tls_cert_file", &server.cert_file),
        ("server_tls_key_file", &server.key_file),
    ];
    let digest = |(setting, path): (&'static str, &Option<PathBuf>)| {
        let path = path.as_ref()?;
        let content = fs::read(path).ok()?;
        Some((setting, (path.clone(), Sha256::digest(content).into())))
    };
    let with_included =
        [("auth_hba_file", &general.auth_hba_file, hba), ("auth_ident_file", &general.auth_ident_file, ident)];
    let with_included = with_included
        .into_iter()
        .filter_map(|(setting, path, disk)| Some((setting, (path.clone()?, disk.seen.into_inner().finalize().into()))));
    named.into_iter().filter_map(digest).chain(with_included).collect()
}

/// Reads `resolv_conf`, to tell its mistakes at once; it is read again for every look-up.
fn resolv_conf(config: &Config) -> Result<(), Vec<String>> {
    let Some(path) = &config.general.resolv_conf else { return Ok(()) };
    let text = fs::read_to_string(path).map_err(|why| unread(config, "resolv_conf", path, &why))?;
    let mistakes = ResolvConf::parse(&text).mistakes;
    let told = mistakes.iter().map(|(line, mistake)| format!("{}:{line}: {mistake}", path.display()));
    if mistakes.is_empty() { Ok(()) } else { Err(told.collect()) }
}

fn unread(config: &Config, setting: &str, path: &Path, why: &io::Error) -> Vec<String> {
    let why = format!("{setting} {}: cannot read the file: {why}", path.display());
    vec![config.places.mistake(setting, why).to_string()]
}

/// Reads `auth_hba_file` and `auth_ident_file`.
fn hba(config: &Config, [disk, ident]: &[Disk; 2]) -> Result<(Rules, Maps), Vec<String>> {
    let general = &config.general;
    let maps = general.auth_ident_file.as_ref().map_or_else(|| Ok(Maps::default()), |path| Maps::read(path, ident));
    let given = Given {
        maps: maps.as_ref().ok(),
        certificates: match (general.client_tls.mode, &general.client_tls.ca_file) {
            (SslMode::Disable, _) => Certificates::NoTls,
            (SslMode::VerifyCa | SslMode::VerifyFull, _) => Certificates::Required,
            (_, Some(_)) => Certificates::Optional,
            (_, None) => Certificates::Never,
        },
        built: Built::HERE,
        pam_service: &general.auth_pam_service,
    };
    let rules = general
        .auth_hba_file
        .as_ref()
        .map(|path| Rules::read(path, disk, given))
        .unwrap_or_else(|| Ok(Rules::default()));
    match (rules, maps) {
        (Ok(rules), Ok(maps)) => Ok((rules, maps)),
        (rules, maps) => {
            let settings = [
                ("auth_hba_file", &general.auth_hba_file, rules.err()),
                ("auth_ident_file", &general.auth_ident_file, maps.err()),
            ];
            let told = settings.into_iter().flat_map(|(setting, path, mistakes)| {
                let told = move |mistake: Mistake| match path {
                    // It could not be read at all.
                    Some(path) if mistake.line == 0 && mistake.path == *path => {
                        let why = format!("{setting} {}: {}", path.display(), mistake.message);
                        config.places.mistake(setting, why).to_string()
                    }
                    _ => mistake.to_string(),
                };
                mistakes.into_iter().flatten().map(told)
            });
            Err(told.collect())
        }
    }
}

/// The files of the system, and a digest of all that was seen of them.
#[derive(Default)]
struct Disk {
    seen: RefCell<Sha256>,
}

impl Disk {
    /// Notes what was found under a name: two contents that follow each other must not look like another two.
    fn note(&self, path: &Path, found: Option<&[u8]>) {
        let mut seen = self.seen.borrow_mut();
        for part in [Some(path.as_os_str().as_bytes()), found] {
            seen.update(part.map_or(u64::MAX, |part| part.len() as u64).to_be_bytes());
            seen.update(part.unwrap_or_default());
        }
    }
}

impl Files for Disk {
    fn read(&self, path: &Path) -> io::Result<String> {
        let text = fs::read_to_string(path);
        self.note(path, text.as_ref().ok().map(String::as_bytes));
        text
    }

    fn list(&self, path: &Path) -> io::Result<Vec<PathBuf>> {
        // What matters of a directory are the files that are read then.
        fs::read_dir(path)?.map(|entry| Ok(entry?.path())).collect()
    }
}

/// Whom `auth_type` says to ask, beside what is stored.
fn external(config: &Config) -> Result<Option<External>, Vec<String>> {
    let general = &config.general;
    let at = |setting: &str, why: String| vec![config.places.mistake(setting, why).to_string()];
    let (method, asked) = match general.auth_type {
        AuthType::Ldap => {
            let settings = LdapSettings::parse(general.auth_ldap_options.0.as_deref().unwrap_or_default());
            let settings = settings.map_err(|why| at("auth_ldap_options", format!("auth_ldap_options: {why}")))?;
            ("ldap", External::Ldap(Arc::new(settings)))
        }
        AuthType::Pam => ("pam", External::Pam(general.auth_pam_service.clone())),
        _ => return Ok(None),
    };
    match Built::HERE.lacks(method) {
        Some(lack) => Err(at("auth_type", format!("auth_type = \"{method}\": {lack}"))),
        None => Ok(Some(asked)),
    }
}

/// Reads the certificates and keys.
fn tls(config: &Config) -> Result<(Option<Acceptor>, Connector), Vec<String>> {
    let general = &config.general;
    match (Acceptor::new(&general.client_tls), Connector::new(&general.server_tls)) {
        (Ok(acceptor), Ok(connector)) => Ok((acceptor, connector)),
        (acceptor, connector) => {
            let faults = acceptor.err().into_iter().chain(connector.err()).flatten();
            let told =
                |Fault { setting, why }: Fault| config.places.mistake(&setting, format!("{setting} {why}")).to_string();
            Err(faults.map(told).collect())
        }
    }
}

/// The users of the auth file and of `[users]`; where a user is in both, `[users]` counts.
fn users(config: &Config, warnings: &mut Vec<String>) -> Result<Userlist, Vec<String>> {
    let mut mistakes = Vec::new();
    let mut list = Userlist::default();
    if let Some(path) = &config.general.auth_file {
        match fs::read_to_string(path) {
            Err(why) => mistakes.append(&mut unread(config, "auth_file", path, &why)),
            Ok(text) => match Userlist::parse(&text) {
                Ok(parsed) => list = parsed,
                Err(errors) => {
                    mistakes.extend(errors.iter().map(|e| format!("{}:{}: {}", path.display(), e.line, e.message)))
                }
            },
        }
        warnings.extend(list.warnings.iter().map(|w| format!("{}:{}: {}", path.display(), w.line, w.message)));
    }
    for (name, user) in &config.users {
        match user.password.as_deref().map(Secret::parse) {
            Some(Ok(secret)) => list.insert(name, secret),
            Some(Err(why)) => {
                let why = format!("password of user \"{name}\": {why}");
                mistakes.push(config.places.mistake_of_password(name, why).to_string());
            }
            None => {}
        }
    }
    if mistakes.is_empty() { Ok(list) } else { Err(mistakes) }
}
