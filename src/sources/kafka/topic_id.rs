//! The id that a broker gives a topic when it is made: another id under the same name is another topic.
//!
//! Asked through the C interface: rdkafka has no call for it. A broker that knows no ids (before Kafka 2.8, and some that
//! speak its protocol) gives none.

use rdkafka::ClientContext;
use rdkafka::bindings as c;
use rdkafka::client::Client;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use std::ffi::{CStr, CString};
use std::time::Duration;

/// On top of the request's own timeout, which the library keeps.
const ANSWER_GRACE: Duration = Duration::from_secs(1);

/// None: the broker knows no ids. Any broker can answer; the library would wait for the controller if it were not told one.
pub fn topic_id<C: ClientContext>(
    client: &Client<C>,
    broker: i32,
    topic: &str,
    timeout: Duration,
) -> Result<Option<String>, KafkaError> {
    let failed = |code: c::rd_kafka_resp_err_t| Err(KafkaError::MetadataFetch(code.into()));
    let Ok(name) = CString::new(topic) else { return Err(KafkaError::MetadataFetch(RDKafkaErrorCode::InvalidTopic)) };
    let wait_ms = (timeout + ANSWER_GRACE).as_millis() as i32;
    // SAFETY: the client lives as long as this call, and all that is made here of it is destroyed before the end, by
    // `Owned`, in the reverse order. The topic's name lives until its copy is made. An answer that comes after the queue is
    // gone is the library's to throw away. The description belongs to the answer and the id to the description, so both
    // are read before the answer is destroyed.
    unsafe {
        let queue = Owned(c::rd_kafka_queue_new(client.native_ptr()), c::rd_kafka_queue_destroy);
        let operation = c::rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_DESCRIBETOPICS;
        let options = c::rd_kafka_AdminOptions_new(client.native_ptr(), operation);
        let options = Owned(options, c::rd_kafka_AdminOptions_destroy);
        let (timeout_ms, no_text) = (timeout.as_millis() as i32, std::ptr::null_mut());
        for set in [
            c::rd_kafka_AdminOptions_set_request_timeout(options.0, timeout_ms, no_text, 0),
            c::rd_kafka_AdminOptions_set_broker(options.0, broker, no_text, 0),
        ] {
            if set != c::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR {
                return failed(set);
            }
        }
        let mut names = [name.as_ptr()];
        let topics = c::rd_kafka_TopicCollection_of_topic_names(names.as_mut_ptr(), names.len());
        let topics = Owned(topics, c::rd_kafka_TopicCollection_destroy);
        c::rd_kafka_DescribeTopics(client.native_ptr(), topics.0, options.0, queue.0);

        let answer = Owned(c::rd_kafka_queue_poll(queue.0, wait_ms), c::rd_kafka_event_destroy);
        if answer.0.is_null() {
            return Err(KafkaError::MetadataFetch(RDKafkaErrorCode::OperationTimedOut));
        }
        let error = c::rd_kafka_event_error(answer.0);
        if error != c::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR {
            return failed(error);
        }
        let result = c::rd_kafka_event_DescribeTopics_result(answer.0);
        let mut count = 0;
        let found = if result.is_null() {
            std::ptr::null_mut()
        } else {
            c::rd_kafka_DescribeTopics_result_topics(result, &mut count)
        };
        if found.is_null() || count != 1 {
            return Err(KafkaError::MetadataFetch(RDKafkaErrorCode::BadMessage));
        }
        let error = c::rd_kafka_TopicDescription_error(*found);
        if !error.is_null() {
            return failed(c::rd_kafka_error_code(error));
        }
        let id = c::rd_kafka_TopicDescription_topic_id(*found);
        if id.is_null() {
            return Ok(None);
        }
        let is_zero =
            c::rd_kafka_Uuid_most_significant_bits(id) == 0 && c::rd_kafka_Uuid_least_significant_bits(id) == 0;
        let text = c::rd_kafka_Uuid_base64str(id);
        Ok((!is_zero && !text.is_null()).then(|| CStr::from_ptr(text).to_string_lossy().into_owned()))
    }
}

/// Something of the library's, and how it is destroyed.
struct Owned<T>(*mut T, unsafe extern "C" fn(*mut T));

impl<T> Drop for Owned<T> {
    fn drop(&mut self) {
        if !self.0.is_null() {
            // SAFETY: made by the library, owned by us alone, destroyed once.
            unsafe { (self.1)(self.0) }
        }
    }
}
