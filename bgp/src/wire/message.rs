//! Any message, decoded as far as it can be without knowing the session.

use super::header::{Frame, MessageKind};
use super::notification::Notification;
use super::open::Open;
use super::refresh::RouteRefresh;

/// A received message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message<'a> {
    /// Opens a session.
    Open(Open),
    /// The body of an UPDATE, which [`super::update::Update::decode`] reads in the session's context.
    Update(&'a [u8]),
    /// Ends a session.
    Notification(Notification),
    /// Says that the speaker lives.
    Keepalive,
    /// Asks for all routes again.
    RouteRefresh(RouteRefresh),
}

impl<'a> Message<'a> {
    /// Decodes a frame.
    ///
    /// # Errors
    /// What the fault calls for, ready to be sent; the session cannot go on.
    pub fn decode(frame: Frame<'a>) -> Result<Self, Notification> {
        Ok(match frame.kind {
            MessageKind::Open => Self::Open(Open::decode(frame.body)?),
            MessageKind::Update => Self::Update(frame.body),
            MessageKind::Notification => Self::Notification(Notification::decode(frame.body)),
            MessageKind::Keepalive => Self::Keepalive,
            MessageKind::RouteRefresh => Self::RouteRefresh(RouteRefresh::decode(frame.body)?),
        })
    }

    /// The message's type.
    pub fn kind(&self) -> MessageKind {
        match self {
            Self::Open(_) => MessageKind::Open,
            Self::Update(_) => MessageKind::Update,
            Self::Notification(_) => MessageKind::Notification,
            Self::Keepalive => MessageKind::Keepalive,
            Self::RouteRefresh(_) => MessageKind::RouteRefresh,
        }
    }
}
