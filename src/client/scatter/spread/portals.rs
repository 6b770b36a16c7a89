//! Portals of statements that several shards answer, within a block: what the client has asked for in part.

use super::Spread;
use super::refusal::{curtailed, lost, pipelined, portal_exists};
use crate::client::scatter::leg::Leg;
use crate::client::scatter::run::Run;
use crate::client::task::{Client, End, Stopped};
use crate::clock;
use crate::id::ShardIndex;
use crate::session::Intake;
use crate::wire::encode;
use crate::wire::message::{self, Target};

/// A statement that waits for the client to ask for more.
pub(super) struct Portal {
    /// The client's name of it.
    name: Box<[u8]>,
    run: Run,
    /// Whose connections it needs, in its order.
    shards: Vec<ShardIndex>,
}

impl Client {
    /// The portals that the segment's messages name, each with the message's place.
    fn named_portals(&self) -> Vec<(usize, &[u8])> {
        let mut named = Vec::new();
        let mut at = 0_usize;
        for (place, (intake, len)) in self.segment.items.iter().enumerate() {
            let frame = self.input.bytes().get(at..at.saturating_add(*len)).unwrap_or_default();
            at = at.saturating_add(*len);
            match intake {
                Intake::Bind { portal, .. } | Intake::Execute { portal } => named.push((place, &**portal)),
                Intake::DescribePortal | Intake::ClosePortal { .. } => {
                    if let Some(Target::Portal(portal)) = message::target(frame.get(5..).unwrap_or_default()) {
                        named.push((place, portal));
                    }
                }
                _ => {}
            }
        }
        named
    }

    fn has_portal(&self, name: &[u8]) -> bool {
        let kept = self.spread.as_ref().is_some_and(|spread| spread.portals.iter().any(|portal| *portal.name == *name));
        kept || self.is_curtailed(name)
    }

    /// Whether it is one that has written, of whose rows the client has got a part and gets no more.
    fn is_curtailed(&self, name: &[u8]) -> bool {
        self.spread.as_ref().is_some_and(|spread| spread.curtailed.iter().any(|portal| **portal == *name))
    }

    /// The client has got a part of the rows of what several shards have written by this portal.
    pub(in crate::client::scatter) fn curtail(&mut self, name: &[u8]) {
        if let Some(spread) = &mut self.spread {
            spread.curtailed.push(name.into());
        }
    }

    /// Whether the segment is about a portal of several shards.
    pub(in crate::client) fn touches_portals(&self) -> bool {
        let has_some = |spread: &Spread| !(spread.portals.is_empty() && spread.curtailed.is_empty());
        let any = self.spread.as_deref().is_some_and(has_some);
        any && self.named_portals().iter().any(|(_, name)| self.has_portal(name))
    }

    /// Where the portal is that the segment goes on with, if it goes on with one: that of a statement of one shard.
    pub(in crate::client) fn bound_at(&self) -> Option<ShardIndex> {
        let spread = self.spread.as_ref()?;
        let binds = |name: &[u8]| {
            self.segment.items.iter().any(|(i, _)| matches!(i, Intake::Bind { portal, .. } if **portal == *name))
        };
        let named = self.named_portals();
        let (_, name) = named.into_iter().find(|(_, name)| !binds(name))?;
        // Before it spread, all were where it began.
        Some(spread.bound.iter().find(|(bound, _)| **bound == *name).map_or(spread.home, |(_, shard)| *shard))
    }

    /// The segment goes to this shard, with the portals that it binds.
    pub(in crate::client) fn note_bound(&mut self, shard: ShardIndex) {
        let closed = |intake: &Intake| match intake {
            Intake::ClosePortal { portal } => Some(portal.clone()),
            _ => None,
        };
        let closed: Vec<_> = self.segment.items.iter().filter_map(|(intake, _)| closed(intake)).collect();
        let Some(spread) = &mut self.spread else { return };
        spread.bound.retain(|(bound, _)| !closed.contains(bound));
        for (intake, _) in &self.segment.items {
            if let Intake::Bind { portal, .. } = intake {
                spread.bound.retain(|(bound, _)| bound != portal);
                if shard != spread.home {
                    spread.bound.push((portal.clone(), shard));
                }
            }
        }
    }

    /// Serves what the segment asks of portals of several shards; whether that was all.
    pub(super) async fn serve_portals(&mut self) -> Result<bool, End> {
        while let Some((0, name)) = self.named_portals().first().map(|(place, name)| (*place, name.to_vec()))
            && matches!(self.segment.items.first(), Some((Intake::ClosePortal { .. }, _)))
            && self.has_portal(&name)
        {
            match self.close_portal(&name).await {
                Ok(()) => {}
                Err(Stopped::Refused(error)) => return self.fail_spread(error).await.map(|()| true),
                Err(Stopped::End(end)) => return Err(end),
            }
            self.output.extend(encode::CLOSE_COMPLETE);
            let (_, len) = self.segment.items.remove(0);
            self.segment.len = self.segment.len.saturating_sub(len);
            self.input.consume(len);
        }
        if !self.segment.needs_server() {
            return Ok(self.answer_locally());
        }
        let name = match self.segment.items.as_slice() {
            [(Intake::Execute { portal }, _), (Intake::Sync, _)]
            | [(Intake::Execute { portal }, _), (Intake::ClosePortal { .. }, _), (Intake::Sync, _)] => {
                Some(portal.clone())
            }
            _ => None,
        };
        if name.as_ref().is_some_and(|name| self.is_curtailed(name)) {
            return self.fail_spread(curtailed()).await.map(|()| true);
        }
        if let Some(name) = name.filter(|name| self.has_portal(name)) {
            let closes = self.segment.items.len() == 3;
            self.go_on_with(&name, closes).await?;
            return Ok(true);
        }
        let bound = self.segment.items.iter().find_map(|(intake, _)| match intake {
            Intake::Bind { portal, .. } if self.has_portal(portal) => Some(portal.clone()),
            _ => None,
        });
        match bound {
            Some(name) if name.is_empty() => {
                // Another takes its place.
                match self.close_portal(&name).await {
                    Ok(()) => Ok(false),
                    Err(Stopped::Refused(error)) => self.fail_spread(error).await.map(|()| true),
                    Err(Stopped::End(end)) => Err(end),
                }
            }
            Some(name) => self.fail_spread(portal_exists(&name)).await.map(|()| true),
            None if self.touches_portals() => self.fail_spread(pipelined()).await.map(|()| true),
            None => Ok(false),
        }
    }

    /// Gives the client more rows.
    async fn go_on_with(&mut self, name: &[u8], closes: bool) -> Result<(), End> {
        let frame = self.segment.items.first().map_or(0, |(_, len)| *len);
        let execute = self.input.bytes().get(5..frame).and_then(message::execute);
        let most = execute.map_or(0, |execute| u32::try_from(execute.max_rows).unwrap_or(0));
        let found = self.spread.as_mut().and_then(|spread| {
            let at = spread.portals.iter().position(|portal| *portal.name == *name)?;
            Some(spread.portals.remove(at))
        });
        let Some(Portal { mut run, shards, .. }) = found else { return Ok(()) };
        let need = self.need_of_any();
        let legs = match self.legs_for(&shards, &need).await {
            Ok(legs) => legs,
            Err(Stopped::Refused(error)) => return self.fail_spread(error).await,
            Err(Stopped::End(end)) => return Err(end),
        };
        run.resume(legs, clock::now(), closes);
        if let Some(fetch) = &mut run.fetch {
            fetch.ask(most);
        }
        let segment = self.segment.take();
        self.input.consume(segment.len);
        let (run, outcome) = Box::pin(self.fetch(run)).await;
        self.end_part(run, segment, outcome).await
    }

    /// Keeps what the client may ask for more of.
    pub(super) fn keep_portal(&mut self, run: Run, shards: Vec<ShardIndex>) {
        let Some(extended) = run.extended().filter(|extended| run.is_suspended() && !extended.close) else { return };
        let name = extended.portal.clone();
        if let Some(spread) = self.spread.as_mut().filter(|_| run.fetch.is_some()) {
            spread.portals.push(Portal { name, run, shards });
        }
    }

    /// Nobody asks for the rest; the shards forget it, too.
    async fn close_portal(&mut self, name: &[u8]) -> Result<(), Stopped> {
        let Some(spread) = &mut self.spread else { return Ok(()) };
        spread.curtailed.retain(|portal| **portal != *name);
        let Some(at) = spread.portals.iter().position(|portal| *portal.name == *name) else { return Ok(()) };
        let portal = spread.portals.remove(at);
        let Some(farewell) = portal.run.fetch.as_ref().map(|fetch| fetch.farewell()) else { return Ok(()) };
        let of = |shard| portal.shards.contains(&shard);
        self.ask_parts(of, async |leg: &mut Leg| leg.row(&farewell, lost).await.map(drop)).await.map(drop)
    }
}
