-- How many sends each worker of a queue may have in flight on a node; NULL: as many as its configuration says.

ALTER TABLE node_wishes
    ADD COLUMN express_concurrency integer CHECK (express_concurrency BETWEEN 1 AND 10000),
    ADD COLUMN normal_concurrency  integer CHECK (normal_concurrency BETWEEN 1 AND 10000);
