//! What a server's messages, or its silence, say about it, and whether the segment is tried elsewhere for that.

use std::time::Duration;

use super::refusal::{self, Refusal};
use super::{Cause, Event, Held, Leave, Link, Opening};
use crate::client::popular;
use crate::client::silence::Find;
use crate::client::task::lost;
use crate::clock;
use crate::config::Role;
use crate::error::SqlState;
use crate::health::breaker::FailureKind;
use crate::session::is_fatal;
use crate::wire::message;

/// Who is told that its session ends within so long was told that before it was asked anything.
const AT_ONCE: Duration = Duration::from_millis(500);

/// Whether the server has fallen silent, after all that it had sent was read.
pub(super) fn silenced(link: &mut Link) -> Option<Event> {
    let found = link.silence.as_mut()?.find();
    if found == Find::Answers {
        return None;
    }
    // What the probes found is held against it already.
    if let Some(event) = link.leaves_for(Cause::Leaves) {
        return Some(event);
    }
    match found {
        Find::Gone if link.in_flight.server().is_fenced() => {
            Some(Event::ServerLost(lost("another server is the primary now")))
        }
        Find::Gone => Some(Event::ServerLost(lost("it answers nothing any more, probes neither"))),
        Find::Answers | Find::Doubtful => None,
    }
}

/// Looks at a message for what it says about the server, and whether the segment should be tried elsewhere.
pub(super) fn judge(link: &mut Link, tag: u8, body: &[u8]) -> Option<Event> {
    match tag {
        // Say nothing of how it will end.
        b'2' => {
            if let Some(replay) = &mut link.replay {
                replay.bound = true;
            }
            return None;
        }
        b'1' | b'3' | b't' | b'T' | b'n' | b'N' | b'S' => return None,
        b'Z' if link.held().is_some() => return None,
        b'E' => {
            let state = SqlState::from_bytes(message::error_field(body, b'C').unwrap_or_default());
            let fatal = is_fatal(body);
            if fatal && FailureKind::of_sqlstate(state).is_some() {
                let text = message::error_field(body, b'M').map(String::from_utf8_lossy).unwrap_or_default();
                link.in_flight.server().on_admin_shutdown(&text, clock::now());
            }
            if fatal && link.opening != Opening::Over {
                return Some(Event::Retry(Cause::Leaves));
            }
            if let Some(replay) = link.replay.as_mut().filter(|replay| !fatal && !replay.popular.is_empty())
                && popular::is_stale(body, replay.bound)
            {
                replay.held = Some(Held::Renounced);
                return None;
            }
            // Said so by PostgreSQL, nothing was committed; of a proxy that says it nobody knows.
            let undone = || message::error_field(body, b'R') == Some(b"ProcessInterrupts");
            if fatal && link.leave() == Leave::IfRested && was_to_end(state) && is_at_once(link) && undone() {
                return Some(Event::Retry(Cause::Rested));
            }
            if fatal && let Some(event) = link.leaves_for(Cause::Leaves) {
                // Its farewell has been judged above.
                return Some(event);
            }
            if fatal && state == SqlState::ADMIN_SHUTDOWN && link.leave() == Leave::IfUndone && undone() {
                return Some(Event::Retry(Cause::Terminated));
            }
            if link.role == Role::Replica
                && let Some(replay) = link.replay.as_mut().filter(|replay| replay.leave > Leave::Never)
            {
                let always = replay.leave == Leave::Always;
                let writes = match refusal::of(body) {
                    Some(Refusal::Writes) => Some(true),
                    Some(Refusal::OnlyThere) => Some(false),
                    // The primary says the same if it is about something else, and what reads can be asked twice.
                    Some(Refusal::Perhaps) => always.then_some(false),
                    // It says nothing against the server.
                    Some(Refusal::Conflict) if always => return Some(Event::Retry(Cause::Leaves)),
                    Some(Refusal::Conflict) | None => None,
                };
                if let Some(writes) = writes {
                    if !replay.ends {
                        // There is no end to be waited for.
                        return Some(Event::Retry(Cause::NeedsPrimary { writes }));
                    }
                    replay.held = Some(Held::Refused { writes });
                    return None;
                }
            }
            if fatal && link.outlived {
                return Some(Event::ServerLost(message::server_error(body)));
            }
            link.farewell |= fatal;
        }
        _ => {}
    }
    link.replay = None;
    None
}

/// Whether somebody ends a session, or its server does because it rests.
fn was_to_end(state: SqlState) -> bool {
    [SqlState::ADMIN_SHUTDOWN, SqlState::IDLE_SESSION_TIMEOUT].contains(&state)
}

/// Whether what was sent was sent just now, so that nobody can have meant it.
fn is_at_once(link: &Link) -> bool {
    link.query_since.is_some_and(|since| clock::moment().saturating_duration_since(since) < AT_ONCE)
}
