//! Headers of transactions: 37 from a producer, 39 to a producer, 323 from an operator.
//!
//! **Owns** their fields. **Lives on** data cores, control plane and clients. **Invariants** as
//! `request`. **Limits** none of its own. **Not here** what becomes of a transaction (`actors`).

use super::fields::headers;

headers! {
    /// `END_TRANSACTION` (37). Java sends it one-way, Go waits for the answer to its first one.
    EndTransaction<'a> {
        producer_group: &'a str = "producerGroup",
        /// Queue offset of the half record.
        half_offset: i64 = "tranStateTableOffset",
        /// Physical offset of the half record.
        half_physical: i64 = "commitLogOffset",
        /// As in a sysFlag: 0 unknown, 8 commit, 12 rollback.
        commit_or_rollback: i32 = "commitOrRollback",
        /// It answers a 39.
        from_check: bool = "fromTransactionCheck",
        msg_id: Option<&'a str> = "msgId",
        transaction_id: Option<&'a str> = "transactionId",
        topic: Option<&'a str> = "topic",
        broker_name: Option<&'a str> = "bname",
    }

    /// `CHECK_TRANSACTION_STATE` (39), from the broker. The body is the half message as one record.
    CheckTransactionState<'a> {
        /// Echoed in the producer's 37.
        half_offset: i64 = "tranStateTableOffset",
        /// Echoed in the producer's 37.
        half_physical: i64 = "commitLogOffset",
        /// The unique key.
        msg_id: Option<&'a str> = "msgId",
        /// The unique key again.
        transaction_id: Option<&'a str> = "transactionId",
        /// Offset id of the half record.
        offset_msg_id: Option<&'a str> = "offsetMsgId",
        /// The half topic (trap 113).
        topic: Option<&'a str> = "topic",
        broker_name: Option<&'a str> = "bname",
    }

    /// `RESUME_CHECK_HALF_MESSAGE` (323).
    ResumeCheckHalf<'a> {
        topic: Option<&'a str> = "topic",
        /// Offset id of the record that was given up.
        msg_id: &'a str = "msgId",
    }
}
