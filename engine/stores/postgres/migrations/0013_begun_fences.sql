-- Fences of which a part of the quotas is ended, while the books of the shard still stand before them: their
-- place in the usage stream. The books were changed by such an entry, so a Redis that lacks it has lost
-- data, although the books go on where its stream does. Only the furthest of a shard in its present
-- generation counts, and it means nothing more once the position has reached it.
CREATE TABLE begun_fences (
    shard      integer PRIMARY KEY REFERENCES shards (shard),
    generation text    NOT NULL,
    position   text    NOT NULL,
    link       text    NOT NULL
);
