//! `NetworkPolicy` compiled to classes and verdicts.
