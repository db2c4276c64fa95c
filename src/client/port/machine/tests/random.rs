//! Random orders of events, and the rules that always hold.

use super::*;

#[test]
fn any_order_of_events_keeps_the_rules() {
    for seed in 0..2_000 {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut world = World::new(&mut random);
        for _ in 0..200 {
            world.step();
            world.check(seed);
        }
    }
}

/// The surroundings of a port. They do anything at any time.
struct World<'a> {
    random: &'a mut fastrand::Rng,
    port: Port,
    /// The number of the newest link.
    last_link: u64,
    further_links: Vec<LinkId>,
    last_tunnel: u8,
    is_ending: bool,
    in_flight: Vec<(RequestNumber, AttachPurpose, LinkId)>,
}

impl<'a> World<'a> {
    fn new(random: &'a mut fastrand::Rng) -> Self {
        World {
            random,
            port: Port::new(),
            last_link: 0,
            further_links: Vec::new(),
            last_tunnel: 0,
            is_ending: false,
            in_flight: Vec::new(),
        }
    }

    fn step(&mut self) {
        let actions = match self.random.u8(..14) {
            kind @ 0..3 => self.link_event(kind),
            3..6 => self.tunnel_event(),
            6..9 if !self.in_flight.is_empty() => self.reply(),
            12 => self.further_link_up(),
            13 => self.further_link_down(),
            9 if self.random.u8(..50) == 0 => {
                self.is_ending = true;
                self.port.on(PortEvent::ShuttingDown)
            }
            _ => {
                let wait = Duration::from_millis(self.random.u64(..3_000));
                self.port.wait(wait)
            }
        };
        for action in actions {
            self.record(action);
        }
    }

    fn link_event(&mut self, kind: u8) -> Vec<PortAction> {
        let event = match kind {
            0 => {
                self.last_link += 1;
                PortEvent::LinkBegins(link(self.last_link))
            }
            1 => PortEvent::LinkUp(link(self.last_link)),
            _ => PortEvent::LinkEnded(link(self.random.u64(..=self.last_link))),
        };
        self.port.on(event)
    }

    fn further_link_up(&mut self) -> Vec<PortAction> {
        let slot = self.random.usize(1..4);
        let link = link(1_000_000 + self.further_links.len() as u64);
        self.further_links.push(link);
        let mut actions = Vec::new();
        if self.random.bool() {
            actions = self.port.on(PortEvent::FurtherLinkBegins { slot, link });
        }
        if self.random.bool() {
            actions.extend(self.port.on(PortEvent::FurtherLinkUp { slot, link }));
        }
        actions
    }

    fn further_link_down(&mut self) -> Vec<PortAction> {
        let known = self.random.choice(&self.further_links).copied();
        let link = known.unwrap_or(link(0));
        self.port.on(if self.random.bool() {
            PortEvent::FurtherLinkRetiring(link)
        } else {
            PortEvent::LinkEnded(link)
        })
    }

    /// Keeps an attach request until its reply, and checks that none doubles another.
    fn record(&mut self, action: PortAction) {
        if let PortAction::Attach {
            request,
            link,
            purpose,
            ..
        } = action
        {
            assert!(!self.is_ending, "an attach request during the shutdown");
            let is_twin = |(_, other, on): &(_, AttachPurpose, LinkId)| {
                matches!(
                    purpose,
                    AttachPurpose::Resume { .. } | AttachPurpose::Lane { .. }
                ) && (*other, *on) == (purpose, link)
            };
            assert!(!self.in_flight.iter().any(is_twin), "twice on one link");
            self.in_flight.push((request, purpose, link));
        }
    }

    fn tunnel_event(&mut self) -> Vec<PortAction> {
        let known = &self.port.machine.tunnels;
        let Some(entry) = self.random.choice(known) else {
            return Vec::new();
        };
        let (id, server) = (entry.id, entry.server);
        let phase = match self.random.u8(..8) {
            0 => TunnelPhase::Ended,
            1 => return self.port.on(PortEvent::MoveRequested { tunnel: id }),
            2 => return self.port.refused(TestTunnel { id, server }),
            3..5 => TunnelPhase::Lost {
                since: self.port.now,
                code: *self
                    .random
                    .choice(&[Code::PeerLost, Code::Seal, Code::Denied])
                    .expect("not empty"),
            },
            _ => TunnelPhase::Attached {
                link: Some(link(self.random.u64(..=self.last_link))),
            },
        };
        let view = TunnelView {
            phase,
            further_lanes: (1..4).filter(|_| self.random.bool()).collect(),
            accepts_lanes: self.random.u8(..4) > 0,
            lanes: self.random.usize(..6),
            requested_lanes: self.random.usize(..20),
            has_lane_to_leave: self.random.bool(),
            is_moving: self.random.bool() && matches!(phase, TunnelPhase::Attached { .. }),
            is_ending: self.random.u8(..20) == 0,
            has_streams: self.random.bool(),
        };
        self.port.changed(TestTunnel { id, server }, view)
    }

    fn reply(&mut self) -> Vec<PortAction> {
        let at = self.random.usize(..self.in_flight.len());
        let (request, purpose, link) = self.in_flight.swap_remove(at);
        let result = match self.random.u8(..7) {
            0 if !matches!(
                purpose,
                AttachPurpose::New | AttachPurpose::Alternative { .. }
            ) =>
            {
                AttachResult::Resumed
            }
            0..3 => {
                self.last_tunnel = self.last_tunnel.wrapping_add(1);
                let age = SECOND * self.random.u32(..10);
                new_from(tunnel(self.last_tunnel, self.random.u8(..3)), link, age)
            }
            3 => AttachResult::Expired,
            4 => AttachResult::Unanswered,
            5 => AttachResult::Denied,
            _ => AttachResult::Failed {
                is_retryable: self.random.bool(),
            },
        };
        let jitter = self.random.f64();
        self.port.done_with(request, result, jitter)
    }

    fn check(&self, seed: u64) {
        let machine = &self.port.machine;
        let current = machine.current().filter(|current| current.is_attached());
        if let Some(ready) = machine.ready {
            let is_current = current.is_some_and(|current| current.id == ready);
            assert!(is_current, "seed {seed}: not the attached tunnel is ready");
        }
        let has_link = machine.newest_link().is_some();
        let is_idle = machine.pending_new.is_none() && machine.tunnels.is_empty();
        assert!(
            self.is_ending || !has_link || !is_idle,
            "seed {seed}: a link is up, and nothing is requested"
        );
    }
}
