//! Clients, who are issued tokens and show them, forgers among them; and operators, who revoke and rotate.

use std::time::Duration;

use countersign_core::binding::PeerCertificate;
use countersign_core::claims::{Claims, Confirmation, Subject};
use countersign_core::issuing::sign_token;
use countersign_core::names::{Audience, ClientId, KeyId, TokenId, TokenSerial};
use countersign_core::revocation::RevokedSubject;
use countersign_core::spiffe::SpiffeId;
use countersign_core::{Rejection, Timestamp};

use crate::authority::{Authority, Mutation};
use crate::model::Token;
use crate::setting::{CLIENTS, audience, issuer, trust_domain};
use crate::toy::{ToyKey, while_failing};
use crate::verifier::Shown;
use crate::world::{Event, Judging, World};

/// How many of the last tokens are shown.
const RECENT: usize = 40;

/// Tokens that one look is about.
const SHOWN_AT_ONCE: usize = 3;

fn client(index: usize) -> ClientId {
    ClientId::parse(CLIENTS[index]).expect("a client id")
}

/// The certificate of a client.
fn certificate(index: usize) -> PeerCertificate {
    let id = format!("spiffe://{}/{}", trust_domain(), CLIENTS[index]);
    PeerCertificate {
        spiffe_id: SpiffeId::parse(&id).ok(),
        ..PeerCertificate::from([u8::try_from(index).unwrap_or_default(); 32])
    }
}

/// What a token of a client is bound to, if it is: each second one to the SPIFFE ID.
fn confirmation(index: usize, sequence: u64) -> Confirmation {
    let certificate = certificate(index);
    match certificate.spiffe_id {
        Some(id) if sequence.is_multiple_of(2) => Confirmation::SpiffeId(id),
        Some(_) | None => Confirmation::Certificate(certificate.thumbprint),
    }
}

impl World {
    /// A client asks for a token.
    pub(crate) fn issue(&mut self) {
        let again = self.random.about(self.plan.issue_every);
        self.after(again, Event::Issue);
        let index = self.random.index(self.authorities.len());
        let authority = &mut self.authorities[index];
        if authority.paused_until > self.now || authority.process.is_none() || !authority.can_sign(self.now) {
            return;
        }
        let now = authority.now(self.now);
        let Some(key_id) = authority.stored.signing(now) else {
            return;
        };
        let claims = self.draft(index, now);
        if self.is_held(index, &claims) {
            return;
        }
        self.check_signer(index, &key_id);
        let Some(key) = self.authorities[index].stored.find(&key_id) else {
            return;
        };
        let Ok(text) = sign_token(&claims, &key_id, &ToyKey::of(&key.jwk)) else {
            return;
        };
        let until = self.model.signed.entry(key_id.clone()).or_default();
        *until = claims.expires_at.max(*until);
        let bearer = CLIENTS.iter().position(|name| *name == claims.client_id.as_str());
        self.model.token(Token {
            text,
            certificate: bearer.map(certificate),
            claims,
            key_id,
            forged: false,
            taken_back: Vec::new(),
        });
        for verifier in 0..self.verifiers.len() {
            self.check_keys(verifier);
        }
    }

    fn draft(&mut self, authority: usize, now: Timestamp) -> Claims {
        let who = self.random.index(CLIENTS.len());
        let longest = self.plan.max_lifetime.as_secs();
        let lifetime = Duration::from_secs(self.random.within(longest / 3, longest));
        let shard = self.authorities[authority].shard();
        let process = self.authorities[authority].process.as_mut();
        let sequence = process.map_or(0, |process| {
            process.tokens += 1;
            process.tokens
        });
        let bound = self.random.chance(500);
        Claims {
            issuer: issuer().as_str().to_owned(),
            subject: Subject {
                trust_domain: trust_domain(),
                client_id: client(who),
            },
            audiences: vec![audience().as_str().to_owned()],
            client_id: client(who),
            expires_at: now.saturating_add(lifetime),
            issued_at: now,
            not_before: Some(now),
            token_id: TokenId::from(TokenSerial { shard, sequence }),
            scopes: Vec::new(),
            roles: Vec::new(),
            confirmation: if bound {
                confirmation(who, sequence)
            } else {
                Confirmation::Unbound
            },
        }
    }

    /// Whether a revocation that concerns `claims` is being committed: then the token waits, and here it is not issued.
    fn is_held(&self, authority: usize, claims: &Claims) -> bool {
        let pending = self.authorities[authority].pending.as_ref();
        if pending.is_some_and(|outcome| matches!(outcome.mutation, Mutation::Stop(_))) {
            return true;
        }
        let revoked = pending.and_then(|outcome| outcome.revoked.as_ref());
        revoked.is_some_and(|revocation| revocation.subject.concerns(claims))
    }

    /// Somebody who cannot sign makes another token out of one that he has.
    fn forge(&mut self, of: usize) -> Option<usize> {
        let token = self.model.tokens[of].clone();
        let mut claims = token.claims;
        claims.expires_at = claims.expires_at.saturating_add(Duration::from_secs(1000));
        let other = ToyKey::numbered(u64::MAX);
        let text = sign_token(&claims, &token.key_id, &ToyKey::of(&other)).ok()?;
        Some(self.model.token(Token {
            text,
            certificate: token.certificate,
            claims,
            key_id: token.key_id,
            forged: true,
            taken_back: Vec::new(),
        }))
    }

    /// One of the last tokens; rather one that is about to expire, or taken back, if there is one.
    fn choose(&mut self) -> Option<usize> {
        let count = self.model.tokens.len();
        if count == 0 {
            return None;
        }
        let token = count - 1 - self.random.index(count.min(RECENT));
        if self.random.chance(30) && !self.model.tokens[token].forged {
            return self.forge(token);
        }
        Some(token)
    }

    /// Tokens are shown to a verifier.
    pub(crate) fn show(&mut self) {
        let again = self.random.about(self.plan.show_every);
        self.after(again, Event::Show);
        let verifier = self.random.index(self.verifiers.len());
        for _ in 0..SHOWN_AT_ONCE {
            if let Some(token) = self.choose() {
                self.show_to(verifier, token);
            }
        }
    }

    /// `token` is shown to `verifier`.
    pub(crate) fn show_to(&mut self, verifier: usize, token: usize) {
        let class = self.random.index(self.verifiers[verifier].classes.len());
        self.show_in(verifier, token, class);
    }

    fn show_in(&mut self, verifier: usize, token: usize, class: usize) {
        if self.verifiers[verifier].paused_until > self.now {
            return;
        }
        let Some(look) = self.verifiers[verifier].look(self.now) else {
            return;
        };
        if self.random.chance(100) {
            let judging = Judging {
                verifier,
                life: self.verifiers[verifier].life,
                token,
                class,
                look,
                begun: self.now,
            };
            let after = self.random.millis(0, 4000);
            self.after(after, Event::Judge(Box::new(judging)));
            return;
        }
        // Chosen without a draw, so that a run stays the one that it was.
        if self.trace.is_multiple_of(8) {
            let failed = while_failing(|| self.verdict_anew(verifier, token, class, &look));
            self.check(failed.is_err(), "I-16", |world| {
                let name = world.name(verifier);
                format!("{name} accepts token {token}, and could not check its signature")
            });
        }
        let verdict = self.verdict(verifier, token, class, &look, None);
        if self.random.chance(100) || self.model.tokens[token].forged {
            let anew = self.verdict_anew(verifier, token, class, &look);
            self.check_same("I-19", verifier, token, verdict, &[anew]);
        }
        self.check_verdict(verifier, token, class, &look, verdict, self.now);
    }

    /// A decision that took its time comes out: as if it had been made at one moment.
    pub(crate) fn judge_late(&mut self, judging: Judging) {
        let Judging {
            verifier,
            token,
            class,
            look,
            begun,
            life,
        } = judging;
        if self.verifiers[verifier].life != life {
            return;
        }
        let Some(later) = self.verifiers[verifier].look(self.now) else {
            return;
        };
        let verdict = self.verdict(verifier, token, class, &look, Some(self.now));
        let at_first = self.verdict_anew(verifier, token, class, &look);
        let at_last = self.verdict_anew(verifier, token, class, &later);
        self.check_same("I-18", verifier, token, verdict, &[at_first, at_last]);
        self.mix(u64::from(verdict.is_ok()) ^ u64::try_from(begun.as_millis()).unwrap_or_default());
    }

    fn verdict(
        &mut self,
        verifier: usize,
        token: usize,
        class: usize,
        look: &crate::verifier::Look,
        late: Option<Duration>,
    ) -> Result<(), Rejection> {
        self.counts.decisions += 1;
        let shown = shown(&self.model.tokens[token]);
        let verdict = match late {
            None => self.verifiers[verifier].decide(&shown, class, look),
            Some(at) => self.verifiers[verifier].decide_late(&shown, class, look, at),
        };
        self.counts.accepted += u64::from(verdict.is_ok());
        self.mix(u64::from(verdict.is_ok()));
        verdict
    }

    pub(crate) fn verdict_anew(
        &self,
        verifier: usize,
        token: usize,
        class: usize,
        look: &crate::verifier::Look,
    ) -> Result<(), Rejection> {
        self.verifiers[verifier].decide_anew(&shown(&self.model.tokens[token]), class, look)
    }

    /// An operator does something.
    pub(crate) fn operate(&mut self) {
        let again = self.random.about(self.plan.operate_every);
        self.after(again, Event::Operate);
        let index = self.random.index(self.authorities.len());
        let authority = &self.authorities[index];
        if authority.paused_until > self.now || authority.process.is_none() {
            return;
        }
        if let Some(mutation) = self.operation(index) {
            self.mutate(index, mutation);
        }
    }

    fn operation(&mut self, index: usize) -> Option<Mutation> {
        let who = self.random.index(CLIENTS.len());
        Some(match self.random.below(100) {
            0..40 => self.revoke_a_token()?,
            40..52 => Mutation::Revoke(RevokedSubject::Client(client(who))),
            52..58 => Mutation::Revoke(RevokedSubject::Subject(Subject {
                trust_domain: trust_domain(),
                client_id: client(who),
            })),
            58..62 => Mutation::Revoke(RevokedSubject::Certificate(certificate(who).thumbprint)),
            62..64 => Mutation::Revoke(RevokedSubject::Audience(Audience::parse("service").ok()?)),
            64..66 => Mutation::Revoke(RevokedSubject::Everything),
            66..72 => Mutation::Prepare,
            72..78 => self.activate_standby(index)?,
            78..81 => Mutation::Compromise(self.some_key(index)?),
            81..90 => Mutation::Prune,
            _ => self.quarantine(index),
        })
    }

    fn revoke_a_token(&mut self) -> Option<Mutation> {
        let count = self.model.tokens.len();
        if count == 0 {
            return None;
        }
        let token = count - 1 - self.random.index(count.min(RECENT / 2));
        let claims = &self.model.tokens[token].claims;
        let subject = RevokedSubject::Token(claims.token_id.clone());
        Some(Mutation::RevokeToken(subject, claims.expires_at))
    }

    fn activate_standby(&mut self, index: usize) -> Option<Mutation> {
        let ring = &self.authorities[index].stored.ring;
        let standby = ring.iter().find(|key| key.times.active_from.is_none())?;
        Some(Mutation::Activate {
            key_id: standby.jwk.key_id().clone(),
            forced: self.random.chance(100),
        })
    }

    fn some_key(&mut self, index: usize) -> Option<KeyId> {
        let ring = &self.authorities[index].stored.ring;
        let key = (!ring.is_empty()).then(|| self.random.index(ring.len()))?;
        Some(ring[key].jwk.key_id().clone())
    }

    fn quarantine(&mut self, index: usize) -> Mutation {
        let held = self.authorities[index].stored.quarantined.iter().next().cloned();
        if let Some(spiffe_id) = held {
            return Mutation::Quarantine(spiffe_id, false);
        }
        // Whoever is in quarantine does not get well.
        if self
            .plan
            .calm_from
            .is_some_and(|calm| self.now + Duration::from_secs(20) > calm)
        {
            return Mutation::Prune;
        }
        let verifier = self.random.index(self.verifiers.len());
        let spiffe_id = self.verifiers[verifier].key.spiffe_id.clone();
        Mutation::Quarantine(spiffe_id, true)
    }

    /// At the moment by which something is to be refused everywhere, tokens that it is about are shown everywhere.
    pub(crate) fn probe(&mut self, fact: usize, class: usize) {
        let now = self.authorities[0].wall(self.now);
        let tokens = self.model.tokens.iter().enumerate().rev().take(RECENT);
        let concerned = tokens.filter(|(_, token)| token.taken_back.contains(&fact));
        let concerned = concerned.filter(|(_, token)| token.claims.expires_at > now);
        let concerned: Vec<usize> = concerned.map(|(index, _)| index).take(2).collect();
        for verifier in 0..self.verifiers.len() {
            for token in &concerned {
                self.show_in(verifier, *token, class);
            }
        }
    }
}

fn shown(token: &Token) -> Shown<'_> {
    Shown {
        text: &token.text,
        token_id: token.claims.token_id.as_str(),
        certificate: token.certificate.as_ref(),
    }
}

impl Authority {
    /// What the names of its tokens begin with: other ones in each life, and for each authority.
    pub(crate) const fn shard(&self) -> u64 {
        self.life << 32 | (self.keys_made >> 32)
    }
}
