-- The platform's lakefs database: one key-value table in 100 hash partitions, and a view over it.
CREATE TABLE public.kv (
    partition_key bytea NOT NULL,
    key bytea NOT NULL,
    value bytea,
    PRIMARY KEY (partition_key, key)
) PARTITION BY HASH (partition_key);
SELECT format('CREATE TABLE public.kv_%s PARTITION OF public.kv FOR VALUES WITH (MODULUS 100, REMAINDER %s)', n, n)
FROM generate_series(0, 99) n
\gexec
CREATE VIEW public.kv_v AS
    SELECT convert_from(partition_key, 'UTF8') AS partition_key, convert_from(key, 'UTF8') AS key, value FROM public.kv;

INSERT INTO public.kv
SELECT convert_to('partition ' || n % 500, 'UTF8'), convert_to('key ' || n, 'UTF8'), sha256(n::text::bytea)
FROM generate_series(1, 5000) n;
