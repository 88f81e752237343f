-- A shop: customers, products, orders, payments as JSON, an audit log by month, a view, two roles. About 290,000 rows.
-- Deterministic, so that two runs show the same checksums.
SET client_min_messages = warning;
CREATE ROLE app_owner LOGIN PASSWORD 'not a secret';
CREATE ROLE app_read NOLOGIN;
CREATE ROLE reporting LOGIN IN ROLE app_read;
CREATE DATABASE shop OWNER app_owner;
ALTER DATABASE shop SET search_path = shop, public;
ALTER DATABASE shop SET timezone = 'UTC';
COMMENT ON DATABASE shop IS 'orders since 2024';
\connect shop
SET client_min_messages = warning;
SET ROLE app_owner;
CREATE SCHEMA shop;
SET search_path = shop;

CREATE TYPE order_status AS ENUM ('placed', 'paid', 'shipped', 'returned');
CREATE DOMAIN email AS text CHECK (VALUE ~ '^[^@[:space:]]+@[^@[:space:]]+$');

CREATE TABLE customers (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name text NOT NULL,
    email email NOT NULL UNIQUE,
    country char(2) NOT NULL,
    joined_at timestamptz NOT NULL,
    preferences jsonb NOT NULL DEFAULT '{}'
);
CREATE TABLE products (
    id serial PRIMARY KEY,
    sku text NOT NULL UNIQUE,
    title text NOT NULL,
    price numeric(10, 2) NOT NULL CHECK (price > 0),
    description text,
    search tsvector GENERATED ALWAYS AS (to_tsvector('simple', title || ' ' || coalesce(description, ''))) STORED
);
CREATE TABLE orders (
    id bigserial PRIMARY KEY,
    customer_id bigint NOT NULL REFERENCES customers,
    status order_status NOT NULL DEFAULT 'placed',
    placed_at timestamptz NOT NULL,
    note text
);
CREATE TABLE order_items (
    order_id bigint NOT NULL REFERENCES orders ON DELETE CASCADE,
    line smallint NOT NULL,
    product_id int NOT NULL REFERENCES products,
    quantity int NOT NULL CHECK (quantity > 0),
    unit_price numeric(10, 2) NOT NULL,
    PRIMARY KEY (order_id, line)
);
CREATE TABLE payments (
    id uuid PRIMARY KEY,
    order_id bigint NOT NULL REFERENCES orders,
    received_at timestamptz NOT NULL,
    provider_answer jsonb NOT NULL
);
CREATE TABLE audit_log (
    at timestamptz NOT NULL,
    actor text NOT NULL,
    action text NOT NULL,
    detail jsonb
) PARTITION BY RANGE (at);
SELECT format('CREATE TABLE audit_log_%s PARTITION OF audit_log FOR VALUES FROM (%L) TO (%L)',
              to_char(month, 'YYYY_MM'), month::date, (month + interval '1 month')::date)
FROM generate_series(timestamp '2025-01-01', timestamp '2025-12-01', interval '1 month') month
\gexec

INSERT INTO customers (name, email, country, joined_at, preferences)
SELECT (ARRAY['Ana', 'Björn', 'Chloé', 'Dmitri', '李雷', 'Fatima', 'Giulia', 'Håkon'])[n % 8 + 1] || ' ' || initcap(left(md5(n::text), 7)),
       'customer' || n || '@example.org', (ARRAY['DE', 'FR', 'CN', 'NO', 'IT', 'PT'])[n % 6 + 1],
       timestamptz '2024-01-01 00:00:00+00' + n * interval '29 minutes',
       jsonb_build_object('newsletter', n % 3 = 0, 'language', (ARRAY['de', 'fr', 'zh', 'nb'])[n % 4 + 1])
FROM generate_series(1, 20000) n;
INSERT INTO products (sku, title, price, description)
SELECT 'SKU-' || lpad(n::text, 6, '0'), 'Product ' || n || ' ' || (ARRAY['lamp', 'chair', 'cable', 'teapot'])[n % 4 + 1],
       (n % 500) + 0.99, CASE WHEN n % 5 > 0 THEN repeat('Made of ' || md5(n::text) || '. ', n % 12 + 1) END
FROM generate_series(1, 2000) n;
INSERT INTO orders (customer_id, status, placed_at, note)
SELECT (n * 7919) % 20000 + 1, (ARRAY['placed', 'paid', 'shipped', 'shipped', 'returned'])[n % 5 + 1]::order_status,
       timestamptz '2025-01-01 00:00:00+00' + n * interval '8 minutes', CASE WHEN n % 40 = 0 THEN E'ring twice\nfloor ' || n % 9 END
FROM generate_series(1, 60000) n;
INSERT INTO order_items
SELECT n, line, (n * 31 + line * 17) % 2000 + 1, (n + line) % 4 + 1, ((n * 31 + line * 17) % 500) + 0.99
FROM generate_series(1, 60000) n, generate_series(1, n % 3 + 1) line;
INSERT INTO payments
SELECT md5('payment ' || id)::uuid, id, placed_at + interval '3 minutes',
       jsonb_build_object('provider', (ARRAY['card', 'transfer', 'wallet'])[id % 3 + 1], 'reference', md5(id::text),
                          'amount', (id % 900) + 0.5, 'checks', jsonb_build_array('cvc', 'avs', id % 11))
FROM orders WHERE status <> 'placed';
INSERT INTO audit_log
SELECT timestamptz '2025-01-01 00:00:00+00' + n * interval '13 minutes', 'user-' || n % 50,
       (ARRAY['login', 'order.update', 'export', 'price.change'])[n % 4 + 1], jsonb_build_object('ip', '10.0.' || n % 256 || '.7', 'n', n)
FROM generate_series(1, 40000) n;

CREATE INDEX orders_customer ON orders (customer_id, placed_at DESC);
CREATE INDEX orders_open ON orders (placed_at) WHERE status = 'placed';
CREATE INDEX products_search ON products USING gin (search);
CREATE INDEX payments_answer ON payments USING gin (provider_answer jsonb_path_ops);
CREATE INDEX audit_log_actor ON audit_log (actor, at);

CREATE VIEW open_orders AS
    SELECT o.id, c.name, o.placed_at, sum(i.quantity * i.unit_price) AS total
    FROM orders o JOIN customers c ON c.id = customer_id JOIN order_items i ON i.order_id = o.id
    WHERE status = 'placed' GROUP BY o.id, c.name;
CREATE MATERIALIZED VIEW revenue_by_month AS
    SELECT date_trunc('month', placed_at, 'UTC') AS month, sum(quantity * unit_price) AS revenue
    FROM orders o JOIN order_items i ON i.order_id = o.id WHERE status <> 'returned' GROUP BY 1;

CREATE FUNCTION note_order_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO shop.audit_log VALUES (clock_timestamp(), current_user, 'order.update', to_jsonb(new));
    RETURN NULL;
END $$;
CREATE TRIGGER order_changed AFTER UPDATE ON orders FOR EACH ROW EXECUTE FUNCTION note_order_change();

GRANT USAGE ON SCHEMA shop TO app_read;
GRANT SELECT ON ALL TABLES IN SCHEMA shop TO app_read;
ALTER DEFAULT PRIVILEGES FOR ROLE app_owner IN SCHEMA shop GRANT SELECT ON TABLES TO app_read;
COMMENT ON TABLE payments IS 'what the payment provider answered, word by word';
