create role shop_owner; create role "odd ""role"; create role reader;
create database fix owner shop_owner;
\c fix
comment on database fix is 'a fixture';
alter database fix set work_mem = '5MB';
create schema sales authorization shop_owner; grant usage on schema sales to reader;
create table sales.orders(id int generated always as identity primary key, body text);
insert into sales.orders(body) select repeat('row ' || i, i % 7) from generate_series(1, 300) i;
alter table sales.orders owner to shop_owner;
comment on column sales.orders.body is 'it''s text';
create table public."odd
name	with ""quotes"" and \ 你好" (a int, b text default E'x\ny');
insert into public."odd
name	with ""quotes"" and \ 你好" values (1, E'\n\t\\'), (2, null);
alter table public."odd
name	with ""quotes"" and \ 你好" owner to "odd ""role";
create table public.empty_table();
create table public.parts(id int, at date) partition by range (at);
create table public.parts_2024 partition of public.parts for values from ('2024-01-01') to ('2025-01-01');
insert into public.parts select i, '2024-02-01' from generate_series(1,50) i;
create view public.v as select * from sales.orders;
create materialized view public.mv as select count(*) from sales.orders;
create function public.add(a integer, b character varying, variadic c text[]) returns int language sql as 'select a';
create type public.mood as enum ('fine', 'odd');
create sequence public.seq; select nextval('public.seq');
create index on sales.orders (body); create statistics public.st on id, body from sales.orders;
create trigger t before update on sales.orders for each row execute function suppress_redundant_updates_trigger();
grant select on sales.orders to reader;
select lo_from_bytea(4000000000, decode(repeat('ab', 5000), 'hex'));
select lo_from_bytea(5, 'small'); select lo_from_bytea(6, '');
alter large object 5 owner to shop_owner; comment on large object 5 is 'five'; grant select on large object 5 to reader;
analyze;
