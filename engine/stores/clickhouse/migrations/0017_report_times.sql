-- What a long report takes is mostly to unpack the times of its counts. Nearly all of these are small numbers in eight
-- octets each: T64 leaves out the bits that are 0 in all of a block, so that ZSTD has a fraction to do. Parts that are
-- there already get it when they are merged.
ALTER TABLE report_series
    MODIFY COLUMN answers SimpleAggregateFunction(sumMap, Map(UInt16, UInt64)) CODEC(T64, ZSTD(1)),
    MODIFY COLUMN ages SimpleAggregateFunction(sumMap, Map(UInt16, UInt64)) CODEC(T64, ZSTD(1));
