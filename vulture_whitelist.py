"""Names that nothing calls and `make lint` lets pass (vulture): this list may only shrink."""

# Members of tables that stand as the specification of SMPP 3.4 has them.
query_sm
query_sm_resp
replace_sm
replace_sm_resp
cancel_sm
cancel_sm_resp
submit_multi
submit_multi_resp
data_sm_resp
ESME_RINVPRTFLG
ESME_RINVMSGID
ESME_RCANCELFAIL
ESME_RREPLACEFAIL
ESME_RINVNUMDESTS
ESME_RINVDLNAME
ESME_RINVDESTFLAG
ESME_RINVSCHED
ESME_RINVSYSTYP
ESME_RINVSUBREP
ESME_RCNTSUBDL
ESME_RSUBMITFAIL
ESME_RINVREPFLAG
ESME_RINVNUMMSGS
ESME_RINVDFTMSGID
ESME_RQUERYFAIL
ESME_RDELIVERYFAILURE
dest_addr_subunit
dest_network_type
dest_bearer_type
dest_telematics_id
source_addr_subunit
source_network_type
source_bearer_type
source_telematics_id
qos_time_to_live
payload_type
additional_status_info_text
ms_msg_wait_facilities
privacy_indicator
source_subaddress
dest_subaddress
user_response_code
source_port
destination_port
language_indicator
callback_num_pres_ind
callback_num_atag
number_of_messages
callback_num
dpf_result
set_dpf
ms_availability_status
delivery_failure_reason
more_messages_to_send
ussd_service_op
display_time
sms_signal
ms_validity
alert_on_message_delivery
its_reply_type
its_session_info

# Fields of answers and of records that are written as JSON, and read by whoever asked.
latency_ms
accepted_at
history_complete
expires_at
revoked_at
characters
closed_shards

# Counters: `engine/boot/counter_log.py` reads them all by their names.
rebinds
binds_refused
sessions_lost
timeouts
late_responses
wrong_pdus
unknown_commands
generic_nacks
receipts_refused
receipts_nameless
receipts_unknown_state
segments_unpaid
mo_dropped
mo_kept
mo_refused
unrouted
replies_held_back
blocks
matched
recipient
ambiguous

# Read by compiled code.
OCTETS_MAX

# Set for a library to read.
_.req_block_size
_.rich_proxied_file
