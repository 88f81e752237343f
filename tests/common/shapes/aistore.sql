-- The platform's aistore database: eight tables that hold a tree of nodes.
CREATE TABLE public.node (
    id bigserial PRIMARY KEY,
    kind smallint NOT NULL CHECK (kind BETWEEN 0 AND 9),
    name text NOT NULL,
    body jsonb
);
CREATE TABLE public.node_deleted (LIKE public.node INCLUDING DEFAULTS, deleted_at timestamptz NOT NULL);
CREATE TABLE public.node_extra (node_id bigint PRIMARY KEY REFERENCES public.node ON DELETE CASCADE, extra jsonb NOT NULL);
CREATE TABLE public.node_graph (
    parent_id bigint REFERENCES public.node, child_id bigint REFERENCES public.node, PRIMARY KEY (parent_id, child_id)
);
CREATE TABLE public.tree (id bigint PRIMARY KEY REFERENCES public.node, parent_id bigint REFERENCES public.tree, path text);
CREATE TABLE public.label (node_id bigint REFERENCES public.node, key text, value text, PRIMARY KEY (node_id, key));
CREATE TABLE public.acl (node_id bigint REFERENCES public.node, subject text, verbs text[] NOT NULL, PRIMARY KEY (node_id, subject));
CREATE TABLE public.s3_credential (access_key text PRIMARY KEY, secret bytea NOT NULL, node_id bigint REFERENCES public.node);
CREATE INDEX node_body ON public.node USING gin (body jsonb_path_ops);
CREATE INDEX tree_path ON public.tree (path text_pattern_ops);

INSERT INTO public.node (kind, name, body)
SELECT n % 10, '节点 ' || n, jsonb_build_object('n', n, 'tags', jsonb_build_array('a', n % 7), 'none', NULL)
FROM generate_series(1, 3000) n;
INSERT INTO public.node_deleted SELECT id + 10000, kind, name, body, timestamptz '2025-02-03 04:05:06.789+00' FROM public.node LIMIT 100;
INSERT INTO public.node_extra SELECT id, jsonb_build_object('size', id * 1e10) FROM public.node WHERE id % 3 = 0;
INSERT INTO public.node_graph SELECT id, id + 1 FROM public.node WHERE id < 3000;
INSERT INTO public.tree SELECT id, nullif(id / 2, 0), '/' || id / 2 || '/' || id FROM public.node;
INSERT INTO public.label SELECT id, 'env', CASE id % 3 WHEN 0 THEN '' WHEN 1 THEN NULL ELSE 'prod' END FROM public.node;
INSERT INTO public.acl SELECT id, 'user:' || id % 17, ARRAY['get', 'list'] FROM public.node WHERE id % 5 = 0;
INSERT INTO public.s3_credential SELECT 'AK' || id, sha256(name::bytea), id FROM public.node WHERE id <= 50;
