use proptest::prelude::*;

use super::*;

fn parse(text: &str) -> Command {
    Command::parse(text).unwrap_or_else(|e| panic!("{text}: {e}"))
}

fn refused(text: &str) -> Error {
    match Command::parse(text) {
        Ok(command) => panic!("{text} was read as {command:?}"),
        Err(error) => error,
    }
}

fn some(name: &str) -> Option<String> {
    Some(name.to_owned())
}

#[test]
fn drivers_ask_for_settings_and_quote_words() {
    for (text, name, value) in [
        ("SHOW client_encoding", "client_encoding", "UTF-8"),
        ("show DateStyle;", "datestyle", "ISO"),
        ("SHOW TIMEZONE", "timezone", "GMT"),
        ("SHOW \"extra_float_digits\"", "extra_float_digits", "2"),
        ("SHOW default_transaction_isolation", "default_transaction_isolation", "read committed"),
        ("SHOW standard_conforming_strings", "standard_conforming_strings", "on"),
    ] {
        assert_eq!(parse(text), Command::ShowParameter(Parameter { name, value }), "{text}");
    }
    assert_eq!(parse("SHOW \"POOLS\""), Command::Show(Show::Pools));
    assert_eq!(parse("SHOW \"pools\";"), Command::Show(Show::Pools));
    for text in ["SHOW 'POOLS'", "SHOW search_path", "SHOW \"\"", "SHOW pools clients"] {
        assert_eq!(Command::parse(text).unwrap_err().sqlstate, SqlState::SYNTAX_ERROR, "{text}");
    }
}

#[test]
fn every_show_is_read_in_any_case_and_as_select() {
    for show in Show::ALL {
        let name = show.name();
        for text in [
            format!("SHOW {name}"),
            format!("show {};", name.to_lowercase()),
            format!("  /* c */ Show\n{name} -- end\n ; ;"),
            format!("SELECT {name};"),
        ] {
            assert_eq!(parse(&text), Command::Show(*show), "{text}");
        }
    }
}

#[test]
fn commands() {
    let explain = |database: Option<&str>, sql: &str| Command::ExplainRoute {
        sql: sql.to_owned(),
        database: database.map(str::to_owned),
    };
    let set = |key: &str, value: &str| Command::Set { key: key.to_owned(), value: value.to_owned() };
    let table = [
        ("", Command::Empty),
        (" ; -- nothing", Command::Empty),
        ("reload;", Command::Reload),
        ("PAUSE", Command::Pause(None)),
        ("PAUSE shop", Command::Pause(some("shop"))),
        ("PAUSE Shop-1.eu", Command::Pause(some("Shop-1.eu"))),
        ("pause \"my \"\"db\"\"\"", Command::Pause(some("my \"db\""))),
        ("RESUME 'shop'", Command::Resume(some("shop"))),
        ("RESUME", Command::Resume(None)),
        ("SHUTDOWN", Command::Shutdown(ShutdownMode::Immediate)),
        ("shutdown wait_for_servers", Command::Shutdown(ShutdownMode::WaitForServers)),
        ("SHUTDOWN WAIT_FOR_CLIENTS;", Command::Shutdown(ShutdownMode::WaitForClients)),
        ("DISABLE shop", Command::Disable("shop".to_owned())),
        ("ENABLE shop", Command::Enable("shop".to_owned())),
        ("RECONNECT", Command::Reconnect(None)),
        ("KILL shop", Command::Kill(some("shop"))),
        ("KILL_CLIENT 42", Command::KillClient(42)),
        ("SUSPEND", Command::Suspend),
        ("WAIT_CLOSE shop", Command::WaitClose(some("shop"))),
        ("SET Pool_Mode = 'session'", set("pool_mode", "session")),
        ("SET query_timeout TO 1.5", set("query_timeout", "1.5")),
        ("EXPLAIN ROUTE 'SELECT 1; -- it''s'", explain(None, "SELECT 1; -- it's")),
        ("explain route $$SELECT 'x'$$;", explain(None, "SELECT 'x'")),
        ("EXPLAIN ROUTE shop 'x'", explain(Some("shop"), "x")),
        ("EXPLAIN ROUTE FOR \"Shop\" 'x'", explain(Some("Shop"), "x")),
        ("EXPLAIN ROUTE for 'x'", explain(Some("for"), "x")),
        ("SELECT version()", Command::Show(Show::Version)),
        ("select pg_catalog.version();", Command::Show(Show::Version)),
    ];
    for (text, command) in table {
        assert_eq!(parse(text), command, "{text}");
    }
}

#[test]
fn what_drivers_send_by_habit_is_done() {
    for (text, tag) in [
        ("SET application_name = 'psql'", "SET"),
        ("SET extra_float_digits = 3", "SET"),
        ("SET SESSION client_encoding TO 'UTF8'", "SET"),
        ("set datestyle to iso, mdy", "SET"),
        ("SET TIME ZONE 'UTC'", "SET"),
        ("SET NAMES 'utf8'", "SET"),
        ("SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY", "SET"),
        ("SET TRANSACTION ISOLATION LEVEL SERIALIZABLE", "SET"),
        ("BEGIN", "BEGIN"),
        ("begin transaction read only;", "BEGIN"),
        ("START TRANSACTION", "START TRANSACTION"),
        ("COMMIT", "COMMIT"),
        ("end", "COMMIT"),
        ("ROLLBACK", "ROLLBACK"),
        ("RESET ALL", "RESET"),
        ("RESET statement_timeout", "RESET"),
        ("DISCARD ALL", "DISCARD ALL"),
        ("DEALLOCATE ALL", "DEALLOCATE ALL"),
    ] {
        assert_eq!(parse(text), Command::NoOp { tag }, "{text}");
        assert_eq!(parse(text).tag(), tag);
    }
}

#[test]
fn what_is_no_command_is_refused_with_the_nearest() {
    for (text, hint) in [
        ("SHOW POLS", "Perhaps you meant SHOW POOLS. SHOW HELP lists the commands."),
        ("shwo clients", "Perhaps you meant SHOW CLIENTS. SHOW HELP lists the commands."),
        ("select satats", "Perhaps you meant SHOW STATS. SHOW HELP lists the commands."),
        ("POOLS", "Perhaps you meant SHOW POOLS. SHOW HELP lists the commands."),
        ("PAUZE shop", "Perhaps you meant PAUSE [database]. SHOW HELP lists the commands."),
        (
            "SHUTDOWN NOW",
            "Perhaps you meant SHUTDOWN [WAIT_FOR_SERVERS | WAIT_FOR_CLIENTS]. SHOW HELP lists the commands.",
        ),
        ("KILL_CLIENT x", "Perhaps you meant KILL_CLIENT id. SHOW HELP lists the commands."),
        ("EXPLAIN SELECT 1", "Perhaps you meant EXPLAIN ROUTE [FOR database] 'sql'. SHOW HELP lists the commands."),
        ("SHOW", "SHOW HELP lists the commands."),
        ("SHOW xyzzyplugh", "SHOW HELP lists the commands."),
        ("SELECT 1", "SHOW HELP lists the commands."),
        ("INSERT INTO t VALUES (1)", "SHOW HELP lists the commands."),
        ("x", "SHOW HELP lists the commands."),
        ("'SHOW' POOLS", "SHOW HELP lists the commands."),
    ] {
        let error = refused(text);
        assert_eq!(error.sqlstate, SqlState::SYNTAX_ERROR, "{text}");
        assert_eq!(error.hint.as_deref(), Some(hint), "{text}");
        assert_eq!(error.message, format!("not a console command: \"{text}\""));
    }
}

#[test]
fn arguments_are_counted() {
    for text in [
        "SHOW POOLS shop",
        "RELOAD now",
        "PAUSE a b",
        "DISABLE",
        "ENABLE",
        "KILL_CLIENT",
        "KILL_CLIENT -1",
        "SUSPEND all",
        "SET pool_mode",
        "SET pool_mode =",
        "SET application_name",
        "SET",
        "SHUTDOWN WAIT_FOR_SERVERS WAIT_FOR_CLIENTS",
        "SELECT version(1)",
    ] {
        assert_eq!(refused(text).sqlstate, SqlState::SYNTAX_ERROR, "{text}");
    }
    assert!(refused("PAUSE; SHUTDOWN").message.contains("one command at a time"));
    assert!(refused("EXPLAIN ROUTE SELECT 1").hint.unwrap().contains("$$sql$$"));
    assert!(refused("EXPLAIN ROUTE").hint.unwrap().contains("$$sql$$"));
    assert!(refused("SHOW 'POOLS").message.contains("unterminated"));
}

proptest! {
    #[test]
    fn any_text_is_a_command_or_a_syntax_error(text in any::<String>()) {
        if let Err(error) = Command::parse(&text) {
            prop_assert_eq!(error.sqlstate, SqlState::SYNTAX_ERROR);
            prop_assert!(error.message.chars().count() < 120);
        }
    }

    #[test]
    fn so_is_anything_made_of_the_right_pieces(
        pieces in prop::collection::vec(
            prop::sample::select(vec![
                "show", "set", "explain", "route", "for", "pools", "pause", "shutdown", "=", "to", "'x'", "\"y\"", "1",
                ";", "(", ")", "session", "kill_client", "begin", "version", "$$q$$", "--", "/*", "*/",
            ]),
            0..6,
        ),
    ) {
        if let Err(error) = Command::parse(&pieces.join(" ")) {
            prop_assert_eq!(error.sqlstate, SqlState::SYNTAX_ERROR);
        }
    }

    #[test]
    fn any_name_survives_quoting(name in ".+") {
        let text = format!("PAUSE \"{}\"", name.replace('"', "\"\""));
        prop_assert_eq!(Command::parse(&text).unwrap(), Command::Pause(Some(name)));
    }
}

#[test]
fn the_log_tells_what_a_command_is_about() {
    for (text, told) in [
        ("KILL app1", "KILL app1"),
        ("KILL", "KILL"),
        ("kill_client 17;", "KILL_CLIENT 17"),
        ("PAUSE \"a b\"", "PAUSE a b"),
        ("disable shop", "DISABLE shop"),
        ("SHUTDOWN WAIT_FOR_CLIENTS", "SHUTDOWN WAIT_FOR_CLIENTS"),
        ("SET auth_ldap_options = 'secret'", "SET auth_ldap_options"),
        ("RELOAD", "RELOAD"),
    ] {
        assert_eq!(Command::parse(text).unwrap().summary(), told, "{text}");
    }
}
